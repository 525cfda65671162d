"""The console: a single page that inspects a file in the browser; part of the package."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

router = APIRouter()

CONSOLE = Path(__file__).resolve().parent.parent / "web" / "console.html"


@router.get("/", include_in_schema=False, response_class=HTMLResponse)
async def console() -> HTMLResponse:
    """Send the page; it loads nothing from other hosts."""
    return HTMLResponse(
        CONSOLE.read_text(encoding="utf-8"),
        headers={"Content-Security-Policy": "default-src 'self' 'unsafe-inline'; media-src blob:; img-src data: blob:"},
    )
