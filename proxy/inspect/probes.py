"""What nobody honest asks for: files that are never served, remote files to be run, hosts in disguise, tools' names."""

from __future__ import annotations

from proxy.inspect.signature import SHORT, WRITTEN, Signature

_TARGET = frozenset({"path"})
_VALUE = SHORT - {"path", "agent"} | WRITTEN
_CODE = r"(?:php\d?|phtml|jspx?|aspx?|ashx|cgi|pl|py|rb|inc|cfm|do|action|config|conf|cnf|ini|ya?ml|properties|env|sql)"

PROBES: tuple[Signature, ...] = (
    Signature("upload.settings", "probe", 5, r"^\.(?:user\.ini|htaccess|htpasswd)$", places=frozenset({"multipart"})),
    Signature(
        "probe.hidden",
        "probe",
        5,
        r"(?:^|/)\.(?:git|svn|hg|bzr|cvs)(?:/|$)|(?:^|/)\.(?:env|env\.[\w.-]+|htpasswd|htaccess|htdigest|npmrc|pypirc|netrc|pgpass|my\.cnf|s3cfg|dockerenv"
        r"|git-credentials|gitconfig|gitlab-ci\.yml|travis\.yml|ds_store|bash_history|bashrc|bash_profile|zsh_history|sh_history|history|profile|viminfo|mysql_history)$"
        r"|(?:^|/)\.(?:ssh|aws|kube|docker|gnupg|azure|config/gcloud|vscode/sftp\.json|idea|terraform)(?:/|$)|(?:^|/)(?:web-inf|meta-inf)/|\.ht\.sqlite$",
        places=_TARGET,
    ),
    Signature(
        "probe.backup",
        "probe",
        5,
        r"\."
        + _CODE
        + r"(?:\.(?:bak|back|backup|old|orig|save|swp|swo|tmp|copy|txt~)|~|\.bak\d|_bak|_old)$|/[\w.-]*(?:dump|backup|database|mysql|db)[\w.-]*\.(?:sql|sql\.(?:gz|zip|bz2)|dump|mdb|sqlite3?)$"
        r"|^/(?:backup|www|wwwroot|site|html|public_html|htdocs|web)\.(?:zip|rar|tar|tar\.gz|tgz|7z)$|\.(?:jsp|php|asp)(?:%00|\x00|%70|%20)",
        places=_TARGET,
    ),
    Signature(
        "probe.secrets",
        "probe",
        5,
        r"/(?:terraform\.tfstate(?:\.backup)?|s?ftp(?:-config)?\.json|ftpsync\.settings|firebase-adminsdk[\w-]*\.json|passwords?\.txt|wp-config\.\w+|tomcat-users\.xml"
        r"|(?:server|private|privatekey|localhost|host|ssl|master)\.(?:key|pem)|private-?key\.pem|id_(?:rsa|dsa|ecdsa|ed25519)|appsettings(?:\.\w+)?\.json|application(?:-\w+)?\.(?:properties|yml)"
        r"|config/(?:database|secrets|parameters)\.yml|laravel\.log|wp-content/debug\.log|error_log|elmah\.axd|trace\.axd)$",
        places=_TARGET,
    ),
    Signature(
        "probe.console",
        "probe",
        5,
        r"/actuator/(?:heapdump|env|gateway|jolokia|shutdown|threaddump|dump|trace|loggers|logfile|mappings|beans|configprops)(?:/|$)|/jolokia/(?:list|exec|read)|/jmx-console/|/invoker/(?:jmx|ejb)invokerservlet"
        r"|/_ignition/execute-solution|/eval-stdin\.php|/_profiler/(?:phpinfo|open)|/telescope/requests|/debug/default/view|/phpmyadmin/(?:scripts/setup|index)\.php|/adminer(?:-[\d.]+)?\.php|/hnap1|/boaform/admin|/goform/(?:set|form)"
        r"|/cfide/administrator|/manager/(?:html|text)/?(?:deploy|upload|$)|/solr/admin/cores|/cgi-bin/(?:test|printenv|php|luci|\.\.)|/(?:phpinfo|php_info|getphpinfo)\.php$|/server-(?:status|info)$",
        places=_TARGET,
    ),
    Signature(
        "probe.shell",
        "probe",
        5,
        r"/(?:c99|c100|r57|wso\d*|b374k|alfa|alfashell|indoxploit|cmd|shell|webshell|fx?codeshell|adminshell|xleet|marijuana)\.(?:php\d?|phtml|asp|aspx|jspx?)(?:$|/)",
        places=_TARGET,
    ),
    Signature(
        "path.remote",
        "traversal",
        5,
        r"^(?:(?:https?|ftps?):)?//[^\s?#]+/(?:c99|r57|shell|cmd|rfi\w{0,4}|evil|backdoor|b374k|wso)\.(?:txt|php|gif|jpe?g|png)\b|^(?:https?|ftps?)://[^\s?#]+(?:\.(?:txt|inc|php)\?+|\.(?:txt|inc|php|gif|jpe?g)(?:%00|\x00))$"
        r"|^ftps?://[^\s?#]+\.(?:php\d?|txt|jsp|aspx?|sh|exe)$|^\\\\[\w.-]+\\[\w$.-]+\\\S*\.(?:php|exe|dll|aspx?|jsp|bat|ps1|scf|hta)$|^https?://(?:pastebin\.com|paste\.ee|ghostbin\.\w+)/raw/"
        r"|^data:[^,]{0,40};base64,(?:pd9|pcf|phn)",
        places=_VALUE | {"path", "multipart"},
    ),
    Signature(
        "path.home",
        "traversal",
        5,
        r"^(?:file://)?(?:/(?:home|users)/[\w.-]+|/root|~\w*)/\.(?:ssh|aws|kube|docker|gnupg|azure|netrc|npmrc|bashrc|bash_history|profile|git-credentials|config/gcloud)\b|/\w+/\.\.;/",
    ),
    Signature(
        "ssrf.disguised",
        "ssrf",
        5,
        r"^(?:\w{2,10}:)?//(?:0|0+[1-7][0-7]{0,10}(?:\.\d+){0,3}|127\.\d{1,8}(?:\.\d{1,5})?|0x[0-9a-f]{1,8}(?:\.(?:0x)?[0-9a-f]{1,8}){0,3}|\[[0:]*:?ffff:[0-9a-f:.]+\]|\[::\]|0+\.0+\.0+\.0+)(?:[:/?#]|$)"
        r"|^(?:\w{2,10}:)?//[^/@\s]{1,80}@(?:127\.\d+\.\d+\.\d+|localhost|\[::1\]|0\.0\.0\.0|10\.\d+\.\d+\.\d+|192\.168\.\d+\.\d+|169\.254\.\d+\.\d+)(?:[:/?#]|$)|^(?:https?:)?//127\.0\.0\.1(?::\d+)?\\"
        r"|^https?:(?:\\\\|/\\)|^/[\\\t]+/?[a-z0-9-]+\.[a-z]|^\\+/\\?/[a-z0-9]|^//[a-z0-9.-]+(?:%00|\x00)",
    ),
    Signature(
        "ssrf.service",
        "ssrf",
        5,
        r"^https?://(?:localhost|127\.\d+\.\d+\.\d+|\[::1\]|0\.0\.0\.0|10\.\d+\.\d+\.\d+|192\.168\.\d+\.\d+|172\.(?:1[6-9]|2\d|3[01])\.\d+\.\d+)"
        r":(?:22|23|25|2375|2376|2379|4243|5984|6379|6443|8500|9200|10250|10255|11211|27017)(?:/|$)",
    ),
    Signature(
        "scanner.more",
        "scanner",
        5,
        r"\b(?:netsparker|havij|zmeu|muieblackcat|bbqsql|dirsearch|xsstrike|r00ts3c|mozi\.[am]|joomscan|httprint|dotdotpwn|sqlninja|fimap|whisker|uniscan|wapiti|cgichk|n-stealth|nstealth|wpscan|droopescan"
        r"|cmsmap|kiterunner|gospider|hakrawler|naabu|zgrab|l9tcpid|censysinspect)\b",
        places=frozenset({"agent"}),
    ),
)
