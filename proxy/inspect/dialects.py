"""Attacks in the corners of languages: SQL's dialects, what shells join to words, expressions, serialized objects."""

from __future__ import annotations

from proxy.inspect.signature import SHORT, WRITTEN, Signature

_THEN = r"(?:;|\|{1,2}|&&?|\$\()\s*"
_LINK = r"(?:;|\|{1,2}|&&?|`|\$\(|[\r\n])\s*"
"""What ends a command and begins another."""
_SUM = r"\d+(?:\s*[+*-]\s*\d+)+"

DIALECTS: tuple[Signature, ...] = (
    Signature(
        "sql.sum",
        "sql",
        5,
        r"^\s*-?\w{0,20}['\")\s]*[\s)](?:and|or|xor|having)[\s+(]+-?(?:"
        + _SUM
        + r"\s*[=<>]+\s*\d|\d+\s*[=<>]+\s*"
        + _SUM
        + ")",
    ),
    Signature(
        "sql.union-odd",
        "sql",
        5,
        r"\bunion\s+(?:all\s+|distinct\s+)?(?:values\s*\(|table\s+\w+\s*(?:$|[;#]|--))|\d\.?e?\d*union[\s(+]+(?:all[\s(+]+)?select\b"
        r"|union[^a-z0-9\s]{1,3}select[^a-z0-9\s]{0,3}\s*\d",
    ),
    Signature(
        "sql.next",
        "sql",
        5,
        r"(?:['\"`)\d]|^)\s*;\s*(?:show\s+(?:tables|databases|columns|grants|variables|processlist)|rename\s+table|handler\s+\w+\s+\w+"
        r"|prepare\s+\w+\s+from|replace\s+into|describe\s+\w+|lock\s+tables?|kill\s+\d+|vacuum\b|attach\s+database|pragma\s+\w+|do\s+(?:sleep|\$\$)"
        r"|print\s+@@)|['\"]\s*\bhandler\s+\w+\s+(?:open|read)\b",
    ),
    Signature(
        "sql.ended",
        "sql",
        5,
        r"^[\w.@+-]{1,40}['\"]\s*\)*\s*(?:--|#)\s*-?\s*$",
        places=SHORT - {"agent"} | WRITTEN,
    ),
    Signature(
        "sql.session",
        "sql",
        5,
        r"^\s*-?\d*['\")\s]+(?:and|or)\s+(?:user|system_user|session_user|current_user|uid|schema|database|version|rownum)\s*(?:\(\s*\))?\s*"
        r"(?:[<>=!]+|like\b|is\b)\s*['\"(]?[\w.%-]+['\")]*\s*(?:$|--|#|;|/\*|\band\b|\bor\b)",
    ),
    Signature(
        "sql.call",
        "sql",
        5,
        r"^\s*-?\d+\s*['\")]*\s+(?:and|or)\s+(?:not\s+)?(?:json_\w+|exists|ascii|ord|substr\w*|mid|length|char_length|load_file|extractvalue|updatexml|if|iif|elt|row|hex|isnull|coalesce|greatest|strcmp)\s*\(",
    ),
    Signature("sql.json", "sql", 5, r"['\"]\s*(?:or|and)\s+[\w.]+\s*(?:@>|<@|->>?|#>>?|\?[|&])"),
    Signature("sql.dollar", "sql", 5, r"\$\$\s*(?:\)\s*)?(?:or|and|union)\b\s*[\w'(]"),
    Signature("sql.equal", "sql", 5, r"^\s*\d*'\s*(?:=|<=>|<>|!=|like)\s*'\d*\s*$"),
    Signature("sql.empty", "sql", 5, r"^\s*'\s*(?:or|and|\|\||&&)\s*''\s*(?:'|$|--|#)"),
    Signature(
        "sql.doubled",
        "sql",
        5,
        r"\bun(?:union|/\*+\*/)ion\b|\bse(?:select|/\*+\*/)lect\b|\bsel(?:select)ect\b|\bo(?:or)r\s+\d",
    ),
    # Shells
    Signature(
        "cmd.more",
        "command",
        5,
        _THEN
        + r"(?:ps\s+-?(?:aux|ef)\b|find\s+/\S*\s+-\w+|docker\s+(?:ps|exec|run|images|cp)\b|kubectl\s+\w+|kill\s+-\d+\s|expr\s+\d+\s|busybox\b"
        r"|/bin/busybox\b|export\s*$|\$'\\?x|[a-z]=\w{1,8}\s*;(?:\s*[a-z]=\w{1,8}\s*;){0,3}\s*\$[a-z])",
    ),
    Signature(
        "cmd.joined",
        "command",
        5,
        r"\b[a-z]{1,12}\$\(\s*\)(?:[a-z]{1,12}\b|\\)|"
        + _LINK
        + r"[a-z]{1,8}\$(?:\w{1,3}|@|\*)(?:[/\s]|[a-z]{1,6}\b)|\$'(?:\\x?[0-9a-f]{2,3}){2}"
        r"|\$\([^)]{1,40}\|\s*(?:ba|da|z)?sh\s*\)|" + _LINK + r"/(?:usr/)?s?bin/[a-z]*[?*][a-z?*]*"
        r"|\.(?:jpe?g|png|gif|txt|pdf|html?|php)\s*[;|&]+\s*(?:id|ls|whoami|uname|pwd|cat|sleep)\b|^/[a-z]\?{2}/[a-z?*]{3,}|^\W{0,3}\$\((?:id|whoami|uname|ls|sleep\s+\d+)[^)]{0,20}\)",
    ),
    Signature(
        "php.joined",
        "php",
        5,
        r"['\"]\s*\.\s*(?:system|exec|passthru|shell_exec|eval|assert|popen|phpinfo|print|file_get_contents|md5|sleep)\s*\(",
    ),
    # Expressions
    Signature(
        "template.more",
        "template",
        5,
        r"\{!!\s*\$?\w+\s*(?:\(|->)|#\{\s*[`%]|\{\{\s*(?:printf\b|\.env\b|call\s|html\s+[\"'])|\{\{[^{}]*secret_key|\$\{\s*(?:alert|confirm|prompt|fetch|eval)\s*\("
        r"|\bng-(?:focus|click|init|mouse\w+|blur|change|bind-html)\s*=\s*[\"']?[^\"'>]*(?:\$event|\(|constructor)|\$event\.(?:view|path|composedpath|target)",
    ),
    Signature(
        "jndi.lookup",
        "log4shell",
        5,
        r"\$\{\s*(?:url|dns|script|file|resourcebundle|urldecoder|base64decoder|jvmrunargs|log4j)\s*:",
    ),
    Signature(
        "java.bound",
        "java",
        5,
        r"\bclass\s*\[\s*['\"]?(?:module|classloader)|\bclass\.module\b|['\"]\s*\.\s*execute\s*\(\s*\)|\bjava\.lang\.(?:reflect\.|math\s*\.)[a-z]+\s*\(",
    ),
    Signature(
        "java.gadget",
        "java",
        5,
        r"^(?:com\.mchange\.v2\.c3p0|com\.sun\.(?:rowset|org|jndi)|org\.apache\.(?:xbean|commons\.(?:configuration|dbcp|collections|beanutils)|ibatis|shiro|tomcat\.dbcp)|ch\.qos\.logback\.core\.db|javax\.(?:swing|management|naming)|org\.springframework\.|java\.net\.inet|java\.util\.(?:hashtable|priorityqueue)|com\.zaxxer\.hikari|br\.com\.anteros|org\.mortbay)[\w.$]*$",
    ),
    Signature("php.object-signed", "php", 5, r"(?:^|[;{:\"'=])[oc]:\+\d{1,4}:\""),
    Signature("python.object", "python", 5, r"^ga[sr][vj][a-z0-9+/_-]{10}"),
    Signature("net.object", "java", 5, r"^aaeaaad/{4}[a-z0-9+/]"),
    Signature(
        "php.bound",
        "php",
        5,
        r"^(?:call_user_func(?:_array)?|__construct|invokefunction)$|\\think\\app|/invokefunction$|\[#(?:post_render|pre_render|markup|lazy_builder|access_callback|submit|validate)\]",
    ),
    Signature("php.globals", "php", 5, r"^(?:globals|_session|_server|_get|_post|_request|_env|_files|_cookie)\["),
    # Markup and lines
    Signature(
        "xss.base",
        "xss",
        5,
        r"<\s*base\s[^<>]*href\s*=|<\s*[a-z]+:script\b|[¼]\s*script\b|<\s*style[^<>]*>\s*(?:@import|[^<]*-moz-binding|[^<]*expression\s*\()",
    ),
    Signature(
        "crlf.split", "crlf", 5, r"[\r\n]+(?:0[ad])*\s*set-cookie\s*:|[\r\n]+connection\s*:\s*(?:close|keep-alive)"
    ),
    Signature("esi", "ssi", 5, r"<!--\s*esi\b"),
)
