"""Blob storage: containers are folders. Listing in pages, reading by range, conditions, signatures and keys."""

import base64
import hashlib
import re
from xml.sax.saxutils import escape

HOST = re.compile(r"(?P<account>[a-z0-9]+)\.blob\.core\.windows\.net")
SIGNATURE = "sv=2024-11-04&sr=c&sp=rl&sig=c2lnbmF0dXJl"
KEY = base64.b64encode(b"the key of the account").decode()
N_A_PAGE = 3
_DATE = "Thu, 01 Jan 2026 00:00:00 GMT"


def answer(request):
    account = HOST.fullmatch(request.host)["account"]
    container, _, name = request.path.strip("/").partition("/")
    folder = request.azure.folder / account / container
    if not _may_read(request, account):
        _refuse(request, 403, "AuthenticationFailed")
    elif not folder.is_dir():
        _refuse(request, 404, "ContainerNotFound")
    elif not name and request.query.get("comp") == "list" and request.query.get("restype") == "container":
        _list(request, folder)
    elif name and request.method in ("GET", "HEAD") and (folder / name).is_file():
        _send(request, folder / name)
    else:
        _refuse(request, 404, "BlobNotFound")


def _may_read(request, account):
    given = request.headers.get("Authorization") or ""
    if given.startswith("SharedKey "):
        return given.startswith(f"SharedKey {account}:") and bool(request.headers.get("x-ms-date"))
    if given.startswith("Bearer "):
        return request.azure.tokens.get(given.removeprefix("Bearer ")) == "https://storage.azure.com"
    return request.query.get("sig") == "c2lnbmF0dXJl"


def _refuse(request, status, code):
    text = f'<?xml version="1.0" encoding="utf-8"?><Error><Code>{code}</Code><Message>{code}</Message></Error>'
    request.reply(status, text.encode(), {"Content-Type": "application/xml", "x-ms-error-code": code})


def _tag(content):
    return f"0x{hashlib.sha256(content).hexdigest()[:15].upper()}"


def _md5(content):
    return base64.b64encode(hashlib.md5(content).digest()).decode()


def _list(request, folder):
    start, after = request.query.get("prefix", ""), request.query.get("marker", "")
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    names = [name for name in names if name.startswith(start) and name > after]
    page, more = names[:N_A_PAGE], names[N_A_PAGE:]
    text = "".join(_entry(folder, name) for name in page)
    marker = f"<NextMarker>{escape(page[-1])}</NextMarker>" if more else "<NextMarker />"
    text = (
        f'<?xml version="1.0" encoding="utf-8"?><EnumerationResults><Blobs>{text}</Blobs>{marker}</EnumerationResults>'
    )
    request.reply(200, text.encode(), {"Content-Type": "application/xml"})


def _entry(folder, name):
    content = (folder / name).read_bytes()
    properties = {
        "Last-Modified": _DATE,
        "Etag": _tag(content),
        "Content-Length": len(content),
        "Content-Type": "application/octet-stream",
        "Content-MD5": _md5(content),
        "BlobType": "BlockBlob",
    }
    told = "".join(f"<{key}>{value}</{key}>" for key, value in properties.items())
    return f"<Blob><Name>{escape(name)}</Name><Properties>{told}</Properties><Metadata /></Blob>"


def _send(request, path):
    content = path.read_bytes()
    tag = f'"{_tag(content)}"'
    if request.headers.get("If-Match") not in (None, tag, "*"):
        _refuse(request, 412, "ConditionNotMet")
        return
    asked = request.headers.get("x-ms-range") or request.headers.get("Range")
    headers = {
        "ETag": tag,
        "Last-Modified": _DATE,
        "x-ms-blob-type": "BlockBlob",
        "x-ms-blob-content-md5": _md5(content),
        "Content-Type": "application/octet-stream",
    }
    if asked is None:
        request.azure.n_sent += len(content)
        request.reply(200, content, {**headers, "Content-MD5": _md5(content)})
        return
    first, last = re.fullmatch(r"bytes=(\d+)-(\d*)", asked).groups()
    first, last = int(first), min(int(last or len(content)), len(content) - 1)
    if first > last:
        _refuse(request, 416, "InvalidRange")
        return
    part = content[first : last + 1]
    request.azure.n_sent += len(part)
    request.reply(206, part, {**headers, "Content-Range": f"bytes {first}-{last}/{len(content)}"})
