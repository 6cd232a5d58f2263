"""What a URI names: a file system, patient with a bad network, and a path on it; redact(): a URI without its secrets.

Endpoints and credentials come from where they usually do: AWS_*, ~/.aws, FSSPEC_*. So do other time-outs and retries:
FSSPEC_S3='{"config_kwargs": {"read_timeout": 60, "retries": {"mode": "standard", "total_max_attempts": 10}}}'.
"""

import re
import unicodedata

import fsspec

_S3_PROTOCOLS = ("s3", "s3a")
_LOCAL_PROTOCOLS = (None, "file", "local")
TIMEOUT_S = 30  # of connecting, and of waiting for the next bytes of an answer
MAX_ATTEMPTS = (
    8  # with exponential back-off and jitter, of requests that meet a 5xx, SlowDown, a time-out or a lost connection
)


def locate(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """(file system, path on it) of `uri`: a local path or an fsspec URI such as s3://bucket/run.

    What it says is never from a cache of listings: others write to the same place.
    """
    uri = str(uri)
    if re.match(r"[\w+.-]+://[^/@]*:[^/@]*@", uri):
        raise ValueError(f"{redact(uri)}: a password in a URI would end up in tables; give it as FSSPEC_* variable")
    protocol = fsspec.core.split_protocol(uri)[0]
    if protocol in _S3_PROTOCOLS:  # not url_to_fs(): a key may hold "::"
        fs = fsspec.filesystem(protocol, **_make_s3_options(protocol))
        return fs, fs._strip_protocol(uri)
    fs, path = fsspec.core.url_to_fs(uri)
    if protocol not in _LOCAL_PROTOCOLS:
        fs.invalidate_cache()
    return fs, path


def _make_s3_options(protocol: str) -> dict:
    """Options of s3fs, over which go those of the fsspec configuration.

    Botocore repeats requests that failed before their answer's body, s3fs those that failed in it. One stream per file:
    with several, s3fs asks for the size of each file before it reads it.
    """
    configured = fsspec.config.conf.get("s3", {}) | fsspec.config.conf.get(protocol, {})
    retries = {"mode": "standard", "total_max_attempts": MAX_ATTEMPTS}
    config = {"connect_timeout": TIMEOUT_S, "read_timeout": TIMEOUT_S, "retries": retries}
    defaults = {"use_listings_cache": False, "max_concurrency": 1}
    return defaults | configured | {"config_kwargs": config | configured.get("config_kwargs", {})}


_SECRET_NAMES = (
    r"[\w.-]*(?:secret|passw(?:or)?d|pwd|token|signature|credential|access[_-]?key(?:[_-]?id)?|(?:api|account)[_-]?key)"
)
_SECRET_PATTERNS = (
    (r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)", "***"),
    (r"(://)A[A-Z]{3}[A-Z0-9]{12,}:[^\s@]*@", r"\1***@"),  # an AWS secret may hold a slash
    (r"(://)[^/\s@]*(?:@[^/\s@]*)*@", r"\1***@"),
    (r"([?&;](?:" + _SECRET_NAMES + r"|sig|key|auth)=)[^&;#\s\"'<>]+", r"\1***"),
    (r"(\b" + _SECRET_NAMES + r"[\"']?\s*[:=]\s*[\"']?)[^\s\"',;&<>}\])]+", r"\1***"),
    (r"(\bauthorization[\"']?\s*[:=]\s*[\"']?(?:(?:bearer|basic)\s+)?)[^\s\"',]+", r"\1***"),
    (r"\b(bearer\s+)[\w.~+/-]{12,}=*", r"\1***"),
    (r"\b(?-i:AKIA|ASIA|AIDA|AROA)[A-Z0-9]{12,}\b", "***"),
    (r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*", "***"),  # JSON web tokens
)


def redact(text: str) -> str:
    """`text`, often a URI, with "***" for the secrets in it: user:password@, keys, tokens and signatures.

    For whatever goes to logs, messages, provenance and reports. What holds no secret comes back as it is.
    """
    for pattern, replacement in _SECRET_PATTERNS:
        text = re.sub(pattern, replacement, text, flags=re.IGNORECASE | re.DOTALL)
    return text


def escape_controls(text: str) -> str:
    r"""`text` in one line, with \x1b, \u202e and so on for whatever a terminal would obey or hide instead of show.

    That is control characters, line ends, formats (right-to-left overrides, zero-width spaces) and surrogates.
    """
    if text.isascii() and text.isprintable():
        return text
    categories = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return "".join(c.encode("unicode_escape").decode() if unicodedata.category(c) in categories else c for c in text)


def name_frame(uri: str, frame: int) -> str:
    """The file's path, with the frame unless it is the first."""
    return f"{uri} (frame {frame})" if frame else uri


def parse_frame_name(name: str) -> tuple[str, int]:
    """Path and frame of a name_frame()."""
    match = re.fullmatch(r"(.*) \(frame (\d{1,9})\)", name, re.DOTALL)
    return (match[1], int(match[2])) if match else (name, 0)
