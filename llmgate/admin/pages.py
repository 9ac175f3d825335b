"""`/docs` and `/redoc`: the OpenAPI document for people, by Swagger UI and Redoc.

All files are in the package: an intranet has no CDN. They tell what the source code tells, and nothing of this gateway,
so they are for everybody; what they call takes an admin key. The scripts are kept and sent compressed. Redoc's is
changed in one place: its footer has no logo, which was asked of another host.
"""

from __future__ import annotations

import gzip
from importlib.resources import files
from typing import NamedTuple


class File(NamedTuple):
    """Something that a page is made of."""

    name: str
    content_type: str


HTML, SCRIPT, STYLE = "text/html; charset=utf-8", "text/javascript; charset=utf-8", "text/css; charset=utf-8"

FILES: dict[str, File] = {
    "/docs": File("docs.html", HTML),
    "/docs/start.js": File("start.js", SCRIPT),
    "/docs/swagger-ui-bundle.js": File("swagger-ui-bundle.js.gz", SCRIPT),
    "/docs/swagger-ui.css": File("swagger-ui.css.gz", STYLE),
    "/docs/pages.css": File("pages.css", STYLE),
    "/redoc": File("redoc.html", HTML),
    "/docs/redoc.standalone.js": File("redoc.standalone.js.gz", SCRIPT),
}

HEADERS = {
    "cache-control": "public, max-age=3600",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    # No script that stands in a page, and nothing from another host. Both libraries set styles on elements.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self' data:; connect-src 'self'; worker-src blob:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
}


def content(file: File, *, packed: bool) -> tuple[bytes, dict[str, str]]:
    """What is sent, and the headers that say so. `packed`: who asked takes gzip."""
    body = files(__package__).joinpath("static", file.name).read_bytes()
    if not file.name.endswith(".gz"):
        return body, HEADERS
    headers = HEADERS | {"vary": "accept-encoding"}
    return (body, headers | {"content-encoding": "gzip"}) if packed else (gzip.decompress(body), headers)
