"""What attacks look like: structure, not words. RE2 patterns over a value's canonical form (lower case, decoded).

A rule's score is what one finding of it is worth; 5 is enough for the usual threshold. `level` is the paranoia level
from which on it is looked for. `places` limits it to where it means something; a `soft` rule counts less in prose.
"""

from __future__ import annotations

from proxy.inspect.dialects import DIALECTS
from proxy.inspect.probes import PROBES
from proxy.inspect.signature import SHORT, WRITTEN, Signature

_EVENTS = (
    r"on(?:abort|activate|after\w+|animation\w+|auxclick|before\w+|begin|blur|bounce|canplay\w*|change|click|close"
    r"|contextmenu|copy|cuechange|cut|dblclick|deactivate|drag\w*|drop|durationchange|emptied|end|ended|error"
    r"|filterchange|finish|focus\w*|formdata|fullscreenchange|gotpointercapture|hashchange|help|input|invalid"
    r"|key(?:down|press|up)|load\w*|lostpointercapture|losecapture|message\w*|mouse\w+|moz\w+|offline|online|page\w+"
    r"|paste|pause|play\w*|pointer\w+|popstate|progress|propertychange|ratechange|readystatechange|repeat|reset"
    r"|resize\w*|row\w+|scroll\w*|search|seek\w+|select\w*|show|stalled|start|stop|storage|submit|suspend|timeupdate"
    r"|toggle|touch\w+|transition\w+|unhandledrejection|unload|volumechange|waiting|webkit\w+|wheel)"
)
_COMMANDS = (
    r"(?:wget|curl|fetch|lwp-download|nc|ncat|netcat|socat|telnet|nslookup|dig|getent|traceroute|ifconfig|ipconfig"
    r"|netstat|arp|route|whoami|uname|hostname|systeminfo|tasklist|taskkill|wmic|reg|schtasks|certutil|bitsadmin|mshta"
    r"|rundll32|regsvr32|cscript|wscript|powershell(?:\.exe)?|pwsh|cmd(?:\.exe)?|bash|dash|zsh|ksh|csh|tcsh|python[23]?"
    r"|perl|ruby|lua|gcc|chmod|chown|chgrp|mkfifo|crontab|useradd|adduser|usermod|passwd|sudo|xterm|nohup|printenv"
    r"|xargs|awk|gawk|sed|egrep|grep|base64|xxd|uuencode|tcpdump|nmap|lsof|pkill|killall|reboot|shutdown|iptables"
    r"|net (?:user|localgroup|view|share|start|group|use)|net1|vol|ver|msfvenom|openssl|rundll|busybox|mknod|exec)"
)
_VAGUE = (
    r"(?:cat|tac|nl|more|less|head|tail|rev|sort|strings|od|hexdump|type|ls|dir|cp|mv|rm|ln|mkdir|rmdir|touch|tee|echo"
    r"|printf|find|which|whereis|locate|env|set|export|id|who|w|last|ps|kill|top|df|du|mount|date|time|sleep|ping"
    r"|ping6|host|ftp|tftp|sftp|ssh|scp|rsync|mail|sendmail|su|sh|php|node|java|javac|test|expr|eval|source|tar|zip|gzip"
    r"|gunzip|unzip|diff|cut|paste|split|pwd|cd|del|copy|ren|attrib|start|call|timeout|net|sc|tree|finger|uptime|dmesg)"
)
_FILES = (
    r"(?:etc(?:[/\\]\.?)+(?:passwd|shadow|group|hosts|hostname|issue|motd|fstab|crontab|sudoers|ssh|apache2?|httpd|nginx|mysql"
    r"|php|redhat-release|resolv\.conf|security|init\.d|profile|environment|my\.cnf|vsftpd|proftpd|exports|inetd\.conf"
    r"|ld\.so|lsb-release|os-release|networks?|services|protocols|samba|snmp|syslog|logrotate|pam|kubernetes|docker)"
    r"|proc[/\\]+(?:self|version|cmdline|mounts|net|cpuinfo|meminfo|\d+)|proc[/\\]+sched_debug|sys[/\\]+class[/\\]|var[/\\]+(?:log|mail|spool|run|www|lib/mysql)"
    r"|boot\.ini|win(?:dows|nt)[/\\]+(?:win\.ini|system32|system\.ini|repair|php\.ini|my\.ini|debug|panther|iis)"
    r"|system32[/\\]+(?:drivers|config|cmd)|win\.ini|system\.ini|autoexec\.bat|ntuser\.dat|inetpub[/\\]|sam$"
    r"|web-inf[/\\]|meta-inf[/\\]|web\.config|global\.asax|\.htaccess|\.htpasswd|\.git[/\\]|\.svn[/\\]|\.env(?:$|\.)"
    r"|\.aws[/\\]|\.ssh[/\\]|id_[dr]sa|authorized_keys|\.bash_history|\.mysql_history|wp-config|config\.inc\.php"
    r"|tomcat-users\.xml|\.kube[/\\]|\.docker[/\\]|\.netrc|\.git-credentials|\.npmrc|root[/\\]\.|usr[/\\]+local[/\\]+(?:apache|etc|nginx|tomcat)|opt[/\\]+lampp|xampp[/\\]|database\.yml|secrets\.yml)"
)
_OUT_OF_BAND = (
    r"(?:burpcollaborator\.net|oastify\.com|oast\.(?:me|fun|live|pro|site|online|today)|interact\.sh|interactsh"
    r"|dnslog\.\w+|ceye\.io|bxss\.\w+|xss\.ht|requestbin\.\w+|canarytokens\.\w+|ezxss|webhook\.site|pipedream\.net)"
)
_FUNCTIONS = (
    r"sleep|pg_sleep|benchmark|ascii|substr(?:ing)?|mid|char(?:_length)?|ord|hex|unhex|conv|if|iif|ifnull|isnull|nullif"
    r"|exists|select|database|schema|version|user|current_\w+|session_user|system_user|suser_\w+|db_name|host_name"
    r"|extractvalue|updatexml|row|elt|load_file|json_\w+|count|sum|coalesce|cast|convert|concat_ws|group_concat|left"
    r"|right|lower|upper|strcmp|find_in_set|instr|locate|position|to_char|to_number|dbms_\w+|utl_\w+|ctxsys\w*|xmltype"
    r"|regexp\w*|bin|rand\w*|len|has_dbaccess|is_srvrolemember|typeof|glob|unicode|likely|randomblob|md5|sha[12]?|now"
    r"|sysdate|gtid_\w+|greatest|least|make_set|bit_\w+|st_\w+|polygon|multipoint|linestring|geometry\w*|inet_\w+|uuid"
    r"|name_const|quote|reverse|repeat|space|chr|nvl2?|decode|rownum|xp_\w+|sp_\w+|pg_\w+|lo_\w+|query_to_xml"
)
_LITERAL = r"(?:'[^']*'?|\"[^\"]*\"?|\d+|0x[0-9a-f]+)"
_OPERATORS = (
    r"\$(?:where|ne|eq|gt|gte|lt|lte|in|nin|regex|or|and|not|nor|exists|expr|function|elemmatch|type|mod|all|size"
    r"|jsonschema|accumulator|lookup|out|merge|text|near|set|unset|inc|push|pull|rename)"
)

SIGNATURES: tuple[Signature, ...] = (
    # SQL
    Signature(
        "sql.union",
        "sql",
        5,
        r"\bunion(?:\s+(?:all|distinct))?[\s(+]+select\b[\s(+]*(?:(?:all|distinct|top)[\s(]+)?"
        r"(?:null\b|[-+~!]?\d|@|\*|'|\"|[\w.`\[\]]+\s*(?:,|\(|$)|[\w.`\[\]*]+\s+(?:as\s+\w+\s+)?(?:from|into|where|limit)\b)",
    ),
    Signature(
        "sql.schema",
        "sql",
        5,
        r"\b(?:information_schema\s*[.`]|pg_catalog|pg_shadow|pg_user|sysobjects|syscolumns|sysusers|sqlite_master|all_tables"
        r"|all_tab_columns|user_tables|msysaccessobjects|master\.\.|sys\.(?:tables|objects|user\$|databases)|v\$version"
        r"|mysql\.user|innodb_table_stats|table_schema|rdb\$)",
    ),
    Signature(
        "sql.select-from",
        "sql",
        4,
        r"(?:[('\";=,]|^|\d)\s*select\b[\s(]+[^;]+[\s)`'\"]from[\s(]+[\w.`\"\[\]@$]+\s*(?:$|;|\)|--|#|/\*|where\b|limit\b"
        r"|order\b|group\b|union\b|having\b|,|as\b)",
        soft=True,
    ),
    Signature(
        "sql.function",
        "sql",
        5,
        r"\b(?:sleep|pg_sleep|randomblob)\s*\(\s*['\"]?\d+(?:\.\d+)?['\"]?\s*(?:$|,|\)\s*(?:$|[)'\"#;,&|+*/=<>-]|\b(?:and|or|as|from|limit)\b))"
        r"|\bbenchmark\s*\(\s*['\"]?\d|\bwaitfor\s+(?:delay|time)\b"
        r"|\b(?:extractvalue|updatexml|load_file|group_concat|json_depth|json_extract|json_keys|gtid_subset|xmltype|ctxsys"
        r"|utl_inaddr|utl_http|dbms_\w+\.|sys_context|fn_varbintohexstr|char_length|exp\(~|geometrycollection|polygon"
        r"|multipoint|linestring|name_const|row_count|found_rows|last_insert_id|quote_literal|current_setting"
        r"|query_to_xml|database_to_xml|lo_import|dblink|xp_cmdshell|xp_dirtree|xp_regread|sp_oacreate|sp_executesql"
        r"|sp_password|openrowset|opendatasource|make_set|elt|ordsys|chr|nchar|unhex|hex|ascii|substr|substring|mid"
        r"|concat|concat_ws|cast|convert|ifnull|nvl)\s*\([^)]*(?:select\b|\|\||0x[0-9a-f]{2}|char\(|chr\(|user\(|version\(|database\(|@@|floor\(rand)"
        r"|\b(?:if|iif)\s*\([^)]*(?:select\b|0x[0-9a-f]{2}|char\(|chr\(|user\(|version\(|database\(|@@|floor\(rand|sleep)"
        r"|\b(?:extractvalue|updatexml|load_file|group_concat|json_depth|gtid_subset|utl_inaddr\.\w+|utl_http\.\w+|dbms_(?:pipe|lock"
        r"|xmlgen|ldap|java|utility|xmlquery)\.\w+|xp_cmdshell|xp_dirtree|sp_executesql|fn_varbintohexstr|pg_read_file|pg_ls_dir)\b"
        r"|@@(?:version|hostname|datadir|basedir|servername|language)\b|\binto\s+(?:out|dump)file\b",
    ),
    Signature(
        "sql.tautology",
        "sql",
        5,
        r"(?:['\"`)]\s*\)*\s*|\bend\s+)(?:and\b|or\b|xor\b|\|\||&&|having\b|where\b)\s*(?:not\s+)?[(!~\s]*"
        + _LITERAL
        + r"\s*\)*\s*(?:<=>|<>|!=|=|<|>|like\b|rlike\b|is\b|in\b|between\b)\s*[(]*(?:"
        + _LITERAL
        + r"|\(?select\b|null\b|true\b)",
    ),
    Signature(
        "sql.tautology-start",
        "sql",
        5,
        r"^[\s)]*(?:and|or|xor|\|\||&&|having)[\s(]+(?:not\s+)?"
        + _LITERAL
        + r"\s*\)*\s*(?:<=>|<>|!=|=|<|>|like\b|is\b|in\b|between\b)\s*[(]*"
        + _LITERAL,
    ),
    Signature(
        "sql.continued",
        "sql",
        5,
        r"['\"]\s*\)*\s*\b(?:and|or|xor)\s+(?:not\s+)?[(\s]*(?:" + _FUNCTIONS + r")\s*\(",
        soft=True,
    ),
    Signature(
        "sql.statement",
        "sql",
        5,
        r"^\s*\(?\s*(?:select\s+.+\sfrom\s+[\w.]+\s*(?:$|;|where\b|limit\b|--)|insert\s+into\s+[\w.]+\s*(?:\(|values\b|select\b)"
        r"|update\s+[\w.]+\s+set\s+\w+\s*=|delete\s+from\s+[\w.]+\s*(?:where\s+\w+\s*=|;|$|--)|declare\s+@\w"
        r"|drop\s+(?:table|database|schema)\s+[\w.]+\s*(?:;|$|--))",
        places=SHORT - {"agent"} | {"form", "multipart"},
    ),
    Signature(
        "sql.tautology-number",
        "sql",
        5,
        r"^[^\w]*-?\d+[\s)+]*(?:and|or|xor|\|\||&&|having|where)[\s+(]*(?:not\s+)?"
        + _LITERAL
        + r"\s*\)*\s*(?:<=>|<>|!=|=|<|>|like\b|rlike\b|is\b|in\b|between\b)\s*[(]*(?:\(?select\b|(?:"
        + _LITERAL
        + r"|null\b|true\b)\s*(?:$|[)#;'\"`|&+*/-]|\b(?:and|or|xor|union|order|group|limit|having|waitfor|sleep|into)\b))",
    ),
    Signature(
        "sql.stacked",
        "sql",
        5,
        r"(?:['\"`)\d]|^)\s*;\s*(?:select\s+[\w*@('\"]|insert\s+into|update\s+\w+\s+set|delete\s+from|drop\s+\w+|create\s+\w+"
        r"|alter\s+\w+|exec(?:ute)?[\s(]+\w|declare\s+@?\w|shutdown\b|truncate\s+\w|merge\s+into|grant\s+\w|waitfor\b"
        r"|set\s+@|begin\b|copy\s+\w|call\s+\w+\(|use\s+\w+\s*;|load\s+data)",
    ),
    Signature(
        "sql.ddl",
        "sql",
        4,
        r"\b(?:drop\s+(?:table|database|schema|user|view)\s+[\w.`\"]+\s*(?:;|--|#|$|cascade)|insert\s+into\s+[\w.`\"]+\s*(?:\([^)]+\)\s*)?values\s*\("
        r"|delete\s+from\s+[\w.`\"]+\s*(?:;|--|#|$|where\s+\w+\s*[=<>])|update\s+[\w.`\"]+\s+set\s+\w+\s*=|exec(?:ute)?\s*\(\s*['\"@]"
        r"|exec\s+(?:master|xp_|sp_)|create\s+(?:or\s+replace\s+)?(?:table|function|procedure|user|trigger)\s+\w+\s*\()",
        soft=True,
    ),
    Signature(
        "sql.cut",
        "sql",
        3,
        r"['\"`)]\s*\)*\s*(?:--(?:\s|$|\+)|#\s*$|/\*|;\s*%00|;\s*$)",
        places=SHORT | WRITTEN,
        soft=True,
    ),
    Signature(
        "sql.order",
        "sql",
        4,
        r"(?:['\"`)]|^-?\d+)\s*\)*\s*(?:order\s+by\s+\d{1,3}|group\s+by\s+[\w.,]+\s+having|procedure\s+analyse|limit\s+\d+\s*,\s*\d+)\b",
    ),
    Signature(
        "sql.case",
        "sql",
        5,
        r"\bcase\s+when\b[^;]+\bthen\b[^;]+\bend\b|\bif\s*\(\s*\(?\s*select\b|\(\s*select\s*\(?[\w*'\"@(]",
    ),
    # HTML and scripts
    Signature("xss.script", "xss", 5, r"<\s*/?\s*script\b|<\s*scr\b[^>]*ipt", places=SHORT),
    Signature(
        "xss.script-code",
        "xss",
        5,
        r"<\s*script(?:[\s/+][^>]*(?:src|href|type|=)|[^>]*>\s*[^\s<]*[(.=\[`{;:+'\"!]|[^>]*>[^a-z\s]|[^>]*>?\s*$)|<\s*/\s*script|<\s*scr\b[^>]*ipt",
    ),
    Signature("xss.handler", "xss", 5, r"<[a-z!?/][^<>]*[\s/\"'`\x0b\x0c]" + _EVENTS + r"\s*="),
    Signature("xss.breakout", "xss", 5, r"[\"'`][^<>\"'`]*[\s/\"'`>]?\b" + _EVENTS + r"\s*=\s*[\"'`]?\s*[\w(\[{/]"),
    Signature(
        "xss.attribute",
        "xss",
        4,
        r"^[^<]*\b" + _EVENTS + r"\s*=\s*[\"'`]?\s*[^\s\"'`]*[(`]",
        places=SHORT | WRITTEN,
    ),
    Signature(
        "xss.element",
        "xss",
        5,
        r"<\s*(?:iframe|object|embed|applet|base|isindex|frameset|bgsound|xml|xss|layer|ilayer|meta\s+http-equiv|link\s+rel|svg|math|marquee|form|button|textarea|keygen|input|video|audio|style|body|html|template|noscript|details|portal|plaintext|listing|xmp|img|image|a|div|p|b|x|table|td|title|select|option|dialog|source|animate|set|use)\b[^<>]*(?:javascript:|vbscript:|data:text/html|srcdoc\s*=|expression\s*\(|-moz-binding|behavior\s*:)",
    ),
    Signature(
        "xss.active",
        "xss",
        5,
        r"<\s*(?:iframe|object|embed|applet|base|isindex|frameset|bgsound|xss|layer|meta\s+http-equiv|link\s+rel|svg|math|marquee|form\s+action|keygen|portal|plaintext)[\s/>]",
        places=SHORT,
    ),
    Signature(
        "xss.tag",
        "xss",
        3,
        r"<\s*/?\s*(?:[a-z][\w:-]*)(?:[\s/][^<>]*)?(?:>|$)",
        places=frozenset({"path", "query", "header", "cookie"}),
    ),
    Signature(
        "xss.scheme",
        "xss",
        5,
        r"(?:^|[\"'=(\s>])(?:javascript|vbscript|livescript|mocha)\s*:\s*(?:[\w$.\[\]'\"+\s/*]*[(`=\[]|//|%0a|\\|<)",
    ),
    Signature(
        "xss.data",
        "xss",
        5,
        r"\bdata:\s*(?:text/(?:html|xml|javascript)|image/svg\+xml|application/(?:xhtml\+xml|javascript))[^,]*,\s*(?:<|%3c|phn|pcf|pgg)",
    ),
    Signature(
        "xss.call",
        "xss",
        5,
        r"^[\s\"'`;,:)}\]+*/\\&|%(-]*\(?\s*(?:alert|confirm|prompt|eval|settimeout|setinterval)\s*\)?\s*(?:\?\.)?\s*(?:\.\s*(?:call|apply|bind)\s*)?(?:`|\(\s*[^\s)]|\(\s*\)\s*(?:$|[^\sa-z]))",
    ),
    Signature(
        "xss.code",
        "xss",
        5,
        r"[\"'`)};]\s*[-+*;,&|^%)}\]]+\s*\(?(?:alert|confirm|prompt|eval|settimeout|setinterval|fetch|import|location|document|window|top|self|parent|throw)\s*\)?\s*(?:[(`]|[.\[=]\s*[\w\"'(])",
    ),
    Signature(
        "xss.global",
        "xss",
        5,
        r"\b(?:document|window|self|top|parent|this|globalthis|frames)\s*(?:\?\.)?\[\s*[\"'`/(]|\bdocument\s*(?:\?\.)?\.\s*(?:(?:cookie|domain)\s*(?:$|[^\sa-z0-9])|write(?:ln)?\s*\()|\b(?:eval|settimeout|setinterval|function)\s*\(\s*(?:atob|string\.fromcharcode|unescape|location|name|document)\b|string\.fromcharcode\s*\(\s*\d+\s*,|\.constructor\s*\(\s*[\"'`]|\[\s*[\"']constructor[\"']\s*\]|(?:window|self|top)\.(?:alert|eval|onerror|location\s*=)",
        soft=True,
    ),
    Signature(
        "xss.indirect",
        "xss",
        4,
        r"\b(?:alert|confirm|prompt)\s*(?:\(\s*(?:\d+|[\"'`/]|document|xss|window|origin|location|\)|=)|`)|\.\s*(?:some|map|find|every|foreach)\s*\(\s*(?:alert|confirm|prompt|eval)\b",
        soft=True,
    ),
    Signature(
        "xss.style",
        "xss",
        4,
        r"<\s*style\b|style\s*=\s*[\"']?[^\"'>]*(?:expression\s*\(|url\s*\(\s*[\"']?\s*javascript)|@import\s+[\"'(u]",
        places=SHORT | {"form", "multipart"},
    ),
    Signature(
        "xss.entity", "xss", 3, r"&(?:colon|lpar|rpar|tab|newline|lt|quot)(?:;|\b)|&#x?0*[0-9a-f]{2,3};?[^;]{0,5}&#"
    ),
    Signature(
        "xss.foreign",
        "xss",
        5,
        r"(?:^|[\"'])\s*(?:location|window|document|self|top)\s*(?:\.\s*(?:href|location|hash))?\s*=\s*[\"'`/j]|\[\s*\]\s*\[\s*[\"'(!]|(?:\(!\[\]\+\[\]\)|\[\]\[\(!|\+\[\]\]\+|!\+\[\]\+)",
    ),
    # Files
    Signature(
        "path.up",
        "traversal",
        5,
        r"(?:^|[/\\=:;,'\"\s(&])(?:\.{2,}(?:[/\\;|]|$)+){3,}|(?:\.{2}[/\\]+){2,}"
        + _FILES
        + r"|(?:\.{2}[\\/]){1,}[\w.]*\x00",
    ),
    Signature("path.up-file", "traversal", 5, r"\.{2,}[/\\;]+(?:[\w.-]*[/\\]+){0,6}" + _FILES),
    Signature("path.up-two", "traversal", 4, r"(?:^|[/\\=:])(?:\.{2}[/\\]+){2}", places=SHORT),
    Signature(
        "path.odd",
        "traversal",
        5,
        r"\.{2};/|\.\.[\x01-\x08\x0b-\x1f]+[/\\]|\.\.[\r\n]+[/\\]|\.{4,}[/\\]{2,}|\.\.%(?:2f|5c|c0|c1|u|25)|(?:\.\.\x2f|\.\.\\){2,}\.\.|\.\.[\x{c0}\x{af}\x{fffd}]+",
    ),
    Signature(
        "path.file",
        "traversal",
        5,
        r"^@?(?:file:|[a-z]:)?[/\\.]+"
        + _FILES
        + r"[^ ]*(?:$|[\t\r\n\"'`;|&])|^(?:etc/(?:passwd|shadow)|\.env|\.htaccess|\.htpasswd)$|^\W{0,4}(?:[a-z]:)[/\\]+(?:windows|winnt|boot\.ini|inetpub)\b|^\\\\[\w.:\[\]-]+\\\w{1,20}\$",
    ),
    Signature(
        "path.system",
        "traversal",
        4,
        r"(?:^|[\s'\"=(;|&<])/etc/(?:passwd|shadow|group|sudoers)\b|c:[\\/]+(?:windows[\\/]+(?:win\.ini|system32)|boot\.ini)|/proc/self/(?:environ|fd|cmdline|maps)",
    ),
    Signature(
        "path.stream",
        "traversal",
        5,
        r"(?:^|[=(\"'\s:])(?:file|gopher|dict|data|ldaps?|tftp|jar|phar|netdoc|expect|php|zip|glob|ssh2|ogg|rar|compress\.(?:zlib|bzip2)|zlib|local_file|view-source|res|mailbox)://[^\s]|\bphp://(?:input|filter|output|memory|temp|fd)|\bjar:(?:file|https?):|(?:^|=)\s*expect:",
    ),
    # Commands
    Signature(
        "cmd.chain",
        "command",
        5,
        r"(?:^|[^\w\s]|\s)\s*(?:;|\|{1,2}|&{1,2}|`|\$\(|<\(|>\()\s*(?:/?(?:usr/)?(?:local/)?s?bin/)?"
        + _COMMANDS
        + r"(?:\s+[-/\\\w.$\"'%@:{&<>|+*~?]|\s*[;|&`)#<>\n\r]|\s*$|\$ifs|\+)",
    ),
    Signature(
        "cmd.chain-start",
        "command",
        5,
        r"(?:[;|&`]|^[^\s]*[\r\n])\s*(?:/?(?:usr/)?(?:local/)?s?bin/)?"
        + _COMMANDS
        + r"(?:\s+-|\s+/|\s*$|\$ifs|\s*[;|&`#])",
    ),
    Signature(
        "cmd.vague",
        "command",
        5,
        r"(?:;|\|{1,2}|&&?|^(?:[^\s#][^\s]*)?[\r\n]|`|\$\()\s*(?:(?:sleep|timeout|ping6?|kill|head|tail|exit)\s+-?\d+(?:\.\d+\.\d+\.\d+)?\s*(?:[;|&`)#\n]|$)|(?:/?(?:usr/)?s?bin/)?"
        + _VAGUE
        + r"(?:\s+-{1,2}[a-z]|\s+/(?:etc|bin|usr|tmp|var|home|root|proc|dev|opt)?\b|\s+[a-z]:\\|\s+[\w.-]*/[\w./*-]+|\s*>{1,2}\s*[\w./&]|\s+[\"'$%*~?]|\s*<|\+-|\+/|\s+\d+\.\d+\.\d+\.\d+\s*(?:[;|&`)#\n]|$)|\s+[\w.-]+\.(?:txt|php|sh|py|pl|conf|ini|log|exe|bat|asp|jsp|cgi|cfg|xml)\b))",
    ),
    Signature(
        "cmd.bare",
        "command",
        5,
        r"^[\s\w.:@/'\"-]*(?:;|\|{1,2}|&&?|`|\$\(|\n|\r|%0a)+\s*(?:/?(?:usr/)?s?bin/)?(?:id|ls|dir|ps|pwd|env|set|who|w|cat|whoami|ver|date|uptime|ipconfig|ifconfig|netstat|uname|hostname|sleep\s+\d+|ping\s+\S+)\s*(?:;|\|{1,2}|&|`|\)|#|\n|\r|'|\"|$)+\s*$",
        places=SHORT | WRITTEN,
    ),
    Signature(
        "cmd.echo", "command", 5, r"^\W{0,6}(?:;|\|{1,2}|&&?|`)\s*(?:echo|print|printf)\s+[\w'\"$-]+\s*(?:[;|&`>]|$)"
    ),
    Signature(
        "cmd.substitution",
        "command",
        4,
        r"`\s*(?:/?(?:usr/)?s?bin/)?(?:"
        + _COMMANDS
        + "|"
        + _VAGUE
        + r")\b[^`]*`|\$\(\s*(?:/?(?:usr/)?s?bin/)?(?:"
        + _COMMANDS
        + "|"
        + _VAGUE
        + r")\b[^)]*\)",
        soft=True,
    ),
    Signature(
        "cmd.obfuscated",
        "command",
        5,
        r"\$\{?ifs\b|\$ifs\$|\{(?:cat|ls|wget|curl|nc|echo|bash|sh|ping),|/dev/(?:tcp|udp)/|/\?{2,}/|/[a-z?*]{1,3}[?*][a-z?*]{0,3}/[a-z?*]{1,6}\s|\bnc(?:at)?\s+-\w*[el]|\bbash\s+-[ic]\b|/bin/(?:ba|da|z|c|k|tc)?sh\b\s*(?:-|\||;|$|\")|\b(?:sh|bash)\s+-i\b|\|\s*(?:ba|da|z)?sh\b(?:\s|$|;|-)|base64\s+(?:-d|--decode)|\b(?:mkfifo|mknod)\s+/tmp|>\s*/dev/null|2>&1|\bexec\s+\d+<>|\bping\s+-[cnit]+\s+\d+\s+\S|\bping\s+(?:-\w\s+\d+\s+)?(?:127\.0\.0\.1|localhost)|\bsleep\s+\d+\s*[;|&`#]",
    ),
    Signature(
        "cmd.fetch",
        "command",
        4,
        r"\b(?:wget|curl|fetch|lwp-request|certutil|bitsadmin|invoke-webrequest|iwr|downloadstring|downloadfile)\b[^\n]*(?:https?|ftp|tftp)://",
        soft=True,
    ),
    Signature(
        "cmd.windows",
        "command",
        5,
        r"\bcmd(?:\.exe)?\s*(?:/[ckrqsv]\b|\^)|\bpowershell(?:\.exe)?\s+(?:-\w+|\S*\(|iex|\$)|%(?:comspec|systemroot|programdata|appdata|windir)%|\bset\s+/a\s+\d|\bnew-object\s+(?:net|system)\.|\biex\s*\(|invoke-(?:expression|mimikatz|command)|\breg\s+(?:query|add|save)\s+hk|\bnet\s+user\s+\w+\s+\w+\s+/add|\bfor\s+/[fl]\s+%",
    ),
    Signature(
        "cmd.argument",
        "command",
        5,
        r"^(?:cmd|exec|command|execute|run|do|ping|code)=\s*\S+|--(?:exec|upload-pack|post-file|checkpoint-action|rsh)=\s*[`'\"$/\w]",
    ),
    Signature(
        "cmd.read",
        "command",
        5,
        r"(?:^|[;|&`(\s'\"=])(?:cat|tac|more|less|head|tail|nl|od|type|strings|xxd|grep\s+\S+|awk\s+\S+|sed\s+\S+|cp|mv|rm\s+-\w+|chmod\s+\S+)\s+(?:-\w+\s+)?(?:/etc/|/proc/|/var/(?:log|www)|/root|/bin|[a-z]:\\|/\*|\.\./|~/|/home/|/tmp/)",
    ),
    Signature(
        "cmd.line",
        "command",
        5,
        r"^\s*(?:sleep\s+\d+\s*(?:$|[;&|#])|ls\s+-\w+(?:\s+[/~.*]\S*)*\s*(?:$|[;&|>])|netstat\s+-\w+|ipconfig\s*/\w+|ifconfig(?:\s|$)|ping\s+-\w\s*\d+|net\s+(?:user|view|localgroup|share|start)(?:\s*$|\s.*/\w)|nc\s+-\w+|perl\s+-e\b|python[23]?\s+-c\b|php\s+-r\b|ruby\s+-r?e\b|reg\s+(?:add|query)\s|dir\s+[a-z]:\\|whoami(?:\s|$)|uname\s+-\w|cat\s+\S*/\S+|netsh\s+\w+\s+\w+|(?:wget|curl)\s+(?:-\w+\s+)*(?:https?://|ftp://)\S+\s*$|ps\s+-?aux|id;\s*(?:$|(?:uname|ls|cat|whoami|pwd|echo|id)\b)|chmod\s+[0-7+]|rm\s+-r?f|/?(?:usr/)?bin/(?:id|ls|cat|sh|bash|whoami|nc|perl|python|uname|ping)\b)\s*",
        places=SHORT | WRITTEN,
    ),
    # Code of other languages
    Signature(
        "php.call",
        "php",
        5,
        r"^[\s;|&'\"`{$)]*(?:eval|exec|system|passthru|shell_exec|popen|assert|phpversion|phpinfo|print_r|include|require)\s*\(\s*(?:['\"$`]|\)\s*;?\s*(?://)?$)|\$\{\s*(?:phpinfo|sleep|system|print|exec)\s*\(",
        places=SHORT | WRITTEN,
    ),
    Signature(
        "php.code",
        "php",
        5,
        r"<\?(?:php\b|=|\s+(?:echo|system|eval|exec|passthru|print|phpinfo|include|require|\$))|\$_(?:get|post|request|cookie|server|files|session|env)\b\s*\[|\$globals\b|\bphpinfo\s*\(|\b(?:passthru|shell_exec|proc_open|popen|pcntl_exec|call_user_func(?:_array)?|create_function|array_map|file_put_contents|file_get_contents|base64_decode|gzinflate|str_rot13|move_uploaded_file|ini_set|assert|include|require_once|system|exec)\s*\(\s*[\"'$\w]+[^)]*\)\s*;|@?\$\{?\s*@?(?:print|system|eval|exec|phpinfo)|\bprint\s*\(\s*md5\s*\(|\bmd5\s*\(\s*\d{3,}\s*\)",
    ),
    Signature("php.object", "php", 5, r"(?:^|[;{:\"'=])[oc]:\d{1,4}:\"[\w\\]+\":\d{1,4}:\{|^a:\d{1,4}:\{(?:i|s):\d"),
    Signature(
        "java.code",
        "java",
        5,
        r"\bjava\.lang\.(?:runtime|processbuilder|class|system|process|classloader)\b(?:\s*[.@(\[]|\s*$|[\"'])|\bruntime\s*\.\s*getruntime|getruntime\s*\(|\bprocessbuilder\s*\(|\bclass\s*\.\s*(?:module|classloader|forname|protectiondomain)|\.classloader\b|getclass\s*\(\s*\)|\bjavax\.(?:script|naming|management|el)\b|\bfreemarker\.template\.utility|com\.sun\.(?:rowset|org\.apache)|org\.apache\.(?:commons\.(?:collections|fileupload|io)|xalan|wicket|naming|catalina)|org\.springframework\.(?:context|beans|core|expression)|\bognl\.|#_?memberaccess|@java\.|#context\b|xwork\.|multipartrequestwrapper|\bt\s*\(\s*java\.|<java\b[^>]*class=|scriptenginemanager",
    ),
    Signature("java.object", "java", 5, r"(?:^|[=:\s])ro0ab[qxn][a-z0-9+/]{8}|\baced0005[0-9a-f]{4}"),
    Signature(
        "node.code",
        "node",
        5,
        r"\brequire\s*\(\s*[\"'`](?:child_process|fs|net|http|https|os|vm|cluster|dns|module|worker_threads)[\"'`]|\bchild_process\b|\bprocess\s*\.\s*(?:mainmodule|binding|env\b|exit|kill|dlopen)|global\.process|_\$\$nd_func\$\$_|\bnew\s+function\s*\(\s*[\"'`]|\bmodule\.constructor|\bconstructor\s*\.\s*constructor\b",
    ),
    Signature(
        "node.prototype",
        "node",
        5,
        r"\b__proto__\b|\bconstructor\s*(?:\.|\[[\"'])\s*prototype\b|__(?:define|lookup)[gs]etter__",
    ),
    Signature(
        "python.code",
        "python",
        5,
        r"__(?:class|import|globals|builtins|subclasses|mro|bases?|reduce|getattribute|code|dict)__|__init__\s*[.\[(]\s*(?:_|['\"])|!!python/|\bos\s*\.\s*(?:system|popen|exec\w*|spawn\w*)\s*\(|\bsubprocess\s*\.\s*(?:popen|call|run|check_output|getoutput)|\b(?:pickle|marshal|yaml)\.loads?\s*\(|\beval\s*\(\s*compile\s*\(|cos\nsystem\n|\bimport\s+(?:os|subprocess|socket|pty)\s*;|\bpty\.spawn",
    ),
    Signature(
        "asp.code",
        "asp",
        5,
        r"<%[-=@!#]?\s*[^%]*(?:[(*]|request|response|eval|import|runat)[^%]*%>|\bserver\s*\.\s*(?:scripttimeout|createobject|mappath|execute|transfer)|\bresponse\s*\.\s*(?:write|end|redirect|binarywrite)\b|wscript\.(?:shell|network)|scripting\.filesystemobject|\bcreateobject\s*\(|\beval\s*request|\bexecute\s*\(?\s*request|system\.(?:diagnostics\.process|io\.file|web\.ui|reflection)|\bjscript\.|adodb\.stream",
    ),
    Signature(
        "ruby.code",
        "ruby",
        5,
        r"\bkernel\.(?:exec|system|open|fork)|\bio\.popen\b|%x[\[({]\w|erb\.new\b|\binstance_eval\b|--- !ruby/|\bfile\.(?:open|read)\s*\(\s*[\"']/",
    ),
    # Templates
    Signature(
        "template.expression",
        "template",
        5,
        r"\{\{[^{}]*(?:\d+\s*[*+/-]\s*['\"]?\d+|__|\bconfig\b|\bself\b|request[.\[|]|constructor|\.class|popen|system|lipsum|cycler|namespace|joiner|\|\s*attr|settings|range\s*\(|_self|app\.request|dump\s*\(|include\s*\(|\bthis\b|\$on|url_for|get_flashed|\$eval|toString\(\)|\(\s*\d|'[^']*'\s*\*\s*\d)[^{}]*\}\}",
    ),
    Signature(
        "template.block",
        "template",
        5,
        r"\{%-?\s*(?:import|include|extends|for\s+\w+\s+in|if\s|set\s|load|debug|raw|with|macro|call|filter|print)\b[^%]*%\}|<#(?:assign|include|import|list|if|setting|function)\b|#set\s*\(\s*\$|#(?:foreach|evaluate|include|parse)\s*\(|\{php\}|\{system\(|\{\$smarty|\{literal\}|\{if\s+\w+\(|\[#(?:assign|include)|<c:(?:import|out)\b|<jsp:",
    ),
    Signature(
        "template.dollar",
        "template",
        5,
        r"[$#*@~%]\{[^{}]*(?:\d+\s*[*+-]\s*\d+|\bt\s*\(|\bruntime\b|getclass|\.class\b|exec\s*\(|new\s+[\w.]+\s*\(|\bjava\b|script|@\w+\(|request|session\b|application\b|system\s*\(|pagecontext|facescontext|param\.|header\.|md5\s*\(|print\s*\(|phpinfo|\w+\?new\(|['\"]\s*\.\s*\w+\s*\(|ex\s*\()[^{}]*\}|@\(\s*\d+\s*[*+-]\s*\d+\s*\)|<%=\s*\d+\s*[*+-]\s*\d+|\$\{\{|\[\[\$\{",
    ),
    Signature(
        "jndi",
        "log4shell",
        5,
        r"\$\{[^}]*(?:jndi|lower:|upper:|env:|sys:|date:'|::-|ctx:|base64:|main:|k8s:|java:|bundle:|marker:|docker:|spring:|web:)|\bjndi:(?:ldaps?|rmi|dns|iiop|corba|nds|http|nis)",
    ),
    Signature(
        "shellshock",
        "shellshock",
        5,
        r"\(\s*\)\s*\{\s*(?::|_|[a-z]+)?\s*;?\s*\}?\s*[;>_]\s*[^=]*(?:/|;|echo|bash|sh\b|curl|wget|ping|sleep)|^\s*\(\)\s*\{",
    ),
    # Directories, mail, documents
    Signature(
        "ldap.filter",
        "ldap",
        5,
        r"\(\s*[&|!]\s*\(\s*[\w.;:*-]+\s*[~<>:]?=|\*\s*\)\s*\(\s*[|&!]?|\)\s*\(\s*[|&!]\s*\(?|\*\(\||^\s*[*)]+\s*\(?[|&]|\)\(\w+=\*|:2\.5\.13\.\d+:=|^\*\)|\(objectclass=|\buserpassword\s*[:=]|\)\(\||\(\|\(",
    ),
    Signature(
        "mail.header",
        "mail",
        5,
        r"[\r\n]+\s*(?:rcpt\s+to|mail\s+from)\s*:|^[^\s]*[\r\n]+\s*(?:bcc|cc|to|from|reply-to|content-type|mime-version|subject)\s*:\s*\S[^\r\n]*$|[\r\n]\s*b?cc\s*:\s*\S+@|^[\r\n]+\s*(?:quit|data|rset|noop|vrfy|expn|help|ehlo|helo|auth)\b|[\r\n]\s*\.\s*[\r\n]+\s*(?:quit|mail|data)|[\r\n]\s*[a-z]{0,4}\d{1,5}\s+(?:capability|fetch|login|logout|list|select|examine|search|noop|create|delete|status|append|store|copy|uid|lsub|expunge)\b",
        places=SHORT | WRITTEN,
    ),
    Signature(
        "ssi",
        "ssi",
        5,
        r"<!--\s*#\s*(?:exec|include|echo|config|printenv|set|if|fsize|flastmod)\b|<esi:(?:include|inline|vars|debug|remove|comment)",
    ),
    Signature(
        "xpath",
        "xpath",
        5,
        r"\bcount\s*\(\s*(?:/|\(?//|\w+::|\.\.?/|parent|child)|\b(?:name|string-length|substring|position|local-name|starts-with|contains|string|node|text|normalize-space)\s*\(\s*(?:/|\(?//|\w+::|\.\.?/|\*|parent|child)|\b(?:ancestor|ancestor-or-self|descendant|descendant-or-self|following|following-sibling|preceding|preceding-sibling|child|parent|attribute|self)::(?:node\(|\*|\w)|['\"\]]\s*\]?\s*\|\s*(?:/|\(|//)\s*[\w/*\[]|\bposition\s*\(\s*\)\s*[=<>]|^//\*|\]\s*\|\s*//|\bdoc\s*\(\s*[\"'(]|['\"]\s*(?:or|and)\s+(?:count|string-length|name|substring|not)\s*\(",
    ),
    Signature(
        "xml.entity",
        "xxe",
        5,
        r"<!entity\b|<!doctype\s+[\w:-]+\s*(?:\[|system\s|public\s+[\"'][^\"']*[\"']\s+[\"'](?:https?://(?:[a-vx-z]|w[^w]|ww[^w])|file|ftp|//))|<!element\b|<!attlist\b|<xi:include\b|2001/xinclude|\+adw-?[a-z!]|\bencoding\s*=\s*[\"']utf-7|<xs:(?:include|import|schema|redefine)\b|<xsl:(?:value-of|include|import|variable|template)\b|<\?xml-stylesheet",
    ),
    Signature(
        "xml.location", "xxe", 4, r"\bschemalocation\s*=\s*[\"'][^\"']*(?:https?://|//|file:)(?:[a-vx-z]|w[^w]|ww[^w])"
    ),
    Signature("xml.cdata", "xxe", 3, r"<!\[cdata\[[^\]]*(?:<|script|--)"),
    Signature(
        "crlf",
        "crlf",
        5,
        r"[\r\n]+\s*(?:set-cookie|location|content-(?:type|length|disposition|encoding)|transfer-encoding|access-control-[a-z-]+|x-[a-z-]{2,30}|refresh|host|http/1\.[01])\s*(?::|\s\d{3})",
        places=SHORT | {"form", "multipart"},
    ),
    Signature("crlf.raw", "crlf", 4, r"[\r\n]", places=frozenset({"path", "header", "cookie", "agent"})),
    Signature(
        "ssrf.metadata",
        "ssrf",
        5,
        r"(?:^|//|@|=)(?:169\.254\.(?:169\.254|170\.2)|metadata\.google\.internal|metadata\.azure|100\.100\.100\.200|instance-data|\[?fd00:ec2::254|\[?::ffff:169\.254)|latest/(?:meta-data|user-data|dynamic)|computemetadata/v1|kubernetes\.default\.svc|/var/run/docker\.sock|/metadata/instance\?api",
    ),
    Signature(
        "ssrf.local",
        "ssrf",
        3,
        r"^(?:https?:)?//(?:[^/@\s]*@)?(?:localhost|127\.\d+\.\d+\.\d+|127\.1\b|0\.0\.0\.0|\[?::1\]?|\[::\]|10\.\d+\.\d+\.\d+|192\.168\.\d+\.\d+|172\.(?:1[6-9]|2\d|3[01])\.\d+\.\d+)(?:[:/]|$)",
    ),
    Signature(
        "ssrf.odd",
        "ssrf",
        5,
        r"^(?:https?:)?//(?:0x[0-9a-f]{2,8}|0[0-7]{3,11}|\d{8,10}|(?:0x[0-9a-f]{1,2}\.){1,3}0x[0-9a-f]{1,6}|(?:0[0-7]{1,4}\.){3}0[0-7]{1,4})(?:[:/]|$)|^https?://[^/\s]+(?:nip\.io|xip\.io|sslip\.io|localtest\.me|lvh\.me)\b",
    ),
    Signature("oob", "ssrf", 5, _OUT_OF_BAND),
    # Databases of documents
    Signature(
        "nosql.operator", "nosql", 5, r"(?:^|[\[{,'\"\s(])" + _OPERATORS + r"['\"]?\s*:|\[\s*" + _OPERATORS + r"\s*\]"
    ),
    Signature(
        "nosql.code",
        "nosql",
        5,
        r"\bdb\s*\.\s*\w+\s*\.\s*(?:insert\w*|find\w*|drop|update\w*|remove|delete\w*|aggregate|save|count\w*|mapreduce|getcollectionnames)\s*\(|\bdb\.(?:getcollectionnames|dropdatabase|version|adduser|stats)\s*\(|\bnew\s+date\s*\(\s*\)\s*[;)-].*\b(?:while|do)\b|\b(?:while|for|do)\b.*\bnew\s+date\s*\(|\bthis\.\w+\s*(?:==|!=|>|<|\.match\s*\(|\.length|\[)|['\"]\s*(?:\|\||&&)\s*['\"]?\w*['\"]?\s*(?:={2,3}|!={1,2}|>|<)\s*['\"]?\w*|[;'\"}]\s*return\s+(?:true|1\s*==)|\btojson(?:oneline)?\s*\(|\bsleep\s*\(\s*\d{3,}\s*\)",
    ),
    Signature("graphql.introspection", "graphql", 5, r"\b__schema\b\s*\{|\b__type\s*\(|introspectionquery\s*\{"),
    Signature(
        "scanner",
        "scanner",
        5,
        r"\b(?:sqlmap|nikto|nuclei|openvas|nessus|nmap|masscan|zgrab|acunetix|netsparker|w3af|dirbuster|gobuster|feroxbuster|ffuf|wpscan|havij|arachni|skipfish|whatweb|jaeles|commix|xsstrike|dalfox|wfuzz|webinspect|appscan|qualys|burp|zaproxy|owasp zap|morfeus|jorgee|l9explore|zmeu|\.nasl|projectdiscovery|hydra|metasploit|paros|webshag|grabber|vega/|sf/|brutus|pangolin)\b|\.nasl\b|fuzz faster u fool|openvasvt",
        places=frozenset({"agent"}),
    ),
    # Suspected from level 2 and 3 on: what many honest values have, too
    Signature("xss.any-tag", "xss", 5, r"<\s*/?[a-z!?][^<>]*>", level=2),
    Signature(
        "sql.quote", "sql", 4, r"['\"]\s*\)*\s*(?:\bor\b|\band\b|\|\||&&|=|<|>|\+|\blike\b|\bunion\b|;|--|#)", level=2
    ),
    Signature("cmd.separator", "command", 4, r"[;|&`]\s*[a-z][a-z0-9_]{1,12}(?:\s+[-/\"'$]|\s*$)", level=2),
    Signature("path.up-one", "traversal", 5, r"(?:^|[/\\=])\.\.[/\\]", level=2),
    Signature(
        "sql.words",
        "sql",
        5,
        r"\b(?:select|insert|update|delete|drop|union|alter|create)\b.+\b(?:from|into|set|table|select|where|database)\b",
        level=3,
    ),
    Signature("meta.quote", "meta", 2, r"['\"`]", level=3),
    Signature("meta.markup", "meta", 2, r"[<>]", level=3),
    Signature("meta.shell", "meta", 2, r"[;|$\\]", level=3),
    *DIALECTS,
    *PROBES,
)
