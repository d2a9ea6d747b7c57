"""Blob storage: containers are folders. Listing in pages, by range, conditions, blocks, signatures and keys."""

import base64
import hashlib
import re
import uuid
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

HOST = re.compile(r"(?P<account>[a-z0-9]+)\.blob\.core\.windows\.net")
READS = "sv=2024-11-04&sr=c&sp=rl&sig=cmVhZHM="
SIGNATURE = "sv=2024-11-04&sr=c&sp=racwdl&sig=c2lnbmF0dXJl"
KEY = base64.b64encode(b"the key of the account").decode()
N_A_PAGE = 3
_DATE = "Thu, 01 Jan 2026 00:00:00 GMT"
_ROLE = "Storage Blob Data Contributor"


def answer(request):
    account = HOST.fullmatch(request.host)["account"]
    container, _, name = request.path.strip("/").partition("/")
    folder = request.azure.folder / account / container
    writes = request.method in ("PUT", "DELETE")
    if why := _refusal(request, account, writes):
        _refuse(request, 403, why)
    elif not folder.is_dir():
        _refuse(request, 404, "ContainerNotFound")
    elif not name and request.query.get("comp") == "list" and request.query.get("restype") == "container":
        _list(request, folder)
    elif name and request.method == "PUT":
        _put(request, folder, name)
    elif name and request.method in ("GET", "HEAD", "DELETE") and (folder / name).is_file():
        if request.method == "DELETE":
            (folder / name).unlink()
            request.reply(202, b"")
        else:
            _send(request, folder / name)
    else:
        _refuse(request, 404, "BlobNotFound")


def _refusal(request, account, writes):
    """Why the request may not be done, if so."""
    given = request.headers.get("Authorization") or ""
    if given.startswith("SharedKey "):
        is_right = given.startswith(f"SharedKey {account}:") and request.headers.get("x-ms-date")
        return None if is_right else "AuthenticationFailed"
    if given.startswith("Bearer "):
        token = given.removeprefix("Bearer ")
        if request.azure.tokens.get(token) != "https://storage.azure.com":
            return "AuthenticationFailed"
        roles = request.azure.node_roles if token in request.azure.of_nodes else request.azure.user_roles
        return None if _ROLE in roles else "AuthorizationPermissionMismatch"
    if request.query.get("sig") not in ("c2lnbmF0dXJl", "cmVhZHM="):
        return "AuthenticationFailed"
    return "AuthorizationPermissionMismatch" if writes and "w" not in request.query["sp"] else None


def _put(request, folder, name):
    """A whole blob, a block of one, or the list that makes one of blocks; a blob is there when it is whole."""
    blocks = request.azure.blocks
    if request.query.get("comp") == "block":
        blocks[folder / name, request.query["blockid"]] = request.body
        request.reply(201, b"", {"x-ms-request-server-encrypted": "true"})
        return
    if request.query.get("comp") == "blocklist":
        names = [one.text for one in ET.fromstring(request.body)]
        if any((folder / name, one) not in blocks for one in names):
            _refuse(request, 400, "InvalidBlockList")
            return
        content = b"".join(blocks.pop((folder / name, one)) for one in names)
    elif "comp" in request.query or request.headers.get("x-ms-blob-type") != "BlockBlob":
        _refuse(request, 400, "InvalidHeaderValue")
        return
    else:
        content = request.body
    if request.headers.get("If-None-Match") == "*" and (folder / name).is_file():
        _refuse(request, 409, "BlobAlreadyExists")
        return
    partial = request.azure.folder / "partial" / uuid.uuid4().hex
    partial.parent.mkdir(exist_ok=True)
    partial.write_bytes(content)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    partial.replace(folder / name)
    request.azure.n_received += len(content)
    request.reply(201, b"", {"ETag": f'"{_tag(content)}"', "Last-Modified": _DATE})


def _refuse(request, status, code):
    text = f'<?xml version="1.0" encoding="utf-8"?><Error><Code>{code}</Code><Message>{code}</Message></Error>'
    request.reply(status, text.encode(), {"Content-Type": "application/xml", "x-ms-error-code": code})


def _tag(content):
    return f"0x{hashlib.sha256(content).hexdigest()[:15].upper()}"


def _md5(content):
    return base64.b64encode(hashlib.md5(content).digest()).decode()


def _list(request, folder):
    start, after = request.query.get("prefix", ""), request.query.get("marker", "")
    delimiter = request.query.get("delimiter")
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    names = [name for name in names if name.startswith(start)]
    if delimiter:  # what lies deeper is one entry
        names = sorted({_until(name, len(start), delimiter) for name in names})
    names = [name for name in names if name > after]
    page, more = names[:N_A_PAGE], names[N_A_PAGE:]
    text = "".join(_prefix(name) if delimiter and name.endswith(delimiter) else _entry(folder, name) for name in page)
    marker = f"<NextMarker>{escape(page[-1])}</NextMarker>" if more else "<NextMarker />"
    asked = "".join(f"<{key}>{escape(value)}</{key}>" for key, value in (("Prefix", start), ("Marker", after)) if value)
    asked += f"<MaxResults>{N_A_PAGE}</MaxResults>" + (f"<Delimiter>{delimiter}</Delimiter>" if delimiter else "")
    where = f'ServiceEndpoint="https://{request.host}/" ContainerName="{folder.name}"'
    text = f"<EnumerationResults {where}>{asked}<Blobs>{text}</Blobs>{marker}</EnumerationResults>"
    text = f'<?xml version="1.0" encoding="utf-8"?>{text}'
    request.reply(200, text.encode(), {"Content-Type": "application/xml"})


def _until(name, start, delimiter):
    end = name.find(delimiter, start)
    return name if end < 0 else name[: end + 1]


def _prefix(name):
    return f"<BlobPrefix><Name>{escape(name)}</Name></BlobPrefix>"


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
    token = (request.headers.get("Authorization") or "").removeprefix("Bearer ")
    if request.method == "GET":
        request.azure.readers.add((path.name, "node" if token in request.azure.of_nodes else "user"))
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
        _count(request, path, content)
        request.reply(200, content, {**headers, "Content-MD5": _md5(content)})
        return
    first, last = re.fullmatch(r"bytes=(\d+)-(\d*)", asked).groups()
    first, last = int(first), min(int(last or len(content)), len(content) - 1)
    if first > last:
        _refuse(request, 416, "InvalidRange")
        return
    part = content[first : last + 1]
    _count(request, path, part)
    request.reply(206, part, {**headers, "Content-Range": f"bytes {first}-{last}/{len(content)}"})


def _count(request, path, part):
    token = (request.headers.get("Authorization") or "").removeprefix("Bearer ")
    reader = (path.name, "node" if token in request.azure.of_nodes else "user")
    request.azure.n_sent += len(part)
    request.azure.n_read[reader] = request.azure.n_read.get(reader, 0) + len(part)
