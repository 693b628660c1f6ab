"""What came with a request to one of the stand-ins."""

from http.server import BaseHTTPRequestHandler


def read_body(request: BaseHTTPRequestHandler) -> bytes:
    """The body of a request, out of the chunks that Amazon's client may wrap around it."""
    headers = request.headers
    known = int(headers["Content-Length"] or 0)
    body = _unchunked(request) if headers["Transfer-Encoding"] else request.rfile.read(known)
    if "aws-chunked" not in (headers["Content-Encoding"] or ""):
        return body
    content = b""
    while body:
        head, _, body = body.partition(b"\r\n")
        size = int(head.partition(b";")[0], 16)
        if size == 0:
            break
        content, body = content + body[:size], body[size + 2 :]
    return content


def _unchunked(request: BaseHTTPRequestHandler) -> bytes:
    """A body whose length nobody told (RFC 9112, 7.1)."""
    body = b""
    while size := int(request.rfile.readline().partition(b";")[0], 16):
        body += request.rfile.read(size)
        request.rfile.readline()
    while request.rfile.readline().strip():
        pass
    return body
