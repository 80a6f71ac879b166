"""The gateway's page of its interface, with everything it needs: it is read where no internet is."""

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

PAGE, FILES = "/docs", "/docs/files"


def route_page(app: FastAPI) -> None:
    """Serve the page at ``/docs``.

    Args:
        app: an application that describes itself at its ``openapi_url`` and serves no page of its own.
    """
    app.mount(FILES, StaticFiles(packages=[("fastapi_offline", "static")]), name="files of the page")

    @app.get(PAGE, include_in_schema=False)
    async def page() -> HTMLResponse:
        # All addresses are relative to the page, so that it works behind a proxy's prefix too.
        return get_swagger_ui_html(
            openapi_url="openapi.json",
            title=app.title,
            swagger_js_url="docs/files/swagger-ui-bundle.js",
            swagger_css_url="docs/files/swagger-ui.css",
            swagger_favicon_url="docs/files/favicon.png",
        )
