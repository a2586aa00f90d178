"""Opens /docs in a browser, tries an operation out, and tells as JSON what it saw.

Runs in an environment of its own, which has Playwright: ``docs_browser.py CHROMIUM URL PATH``.
"""

from __future__ import annotations

import json
import sys

from playwright.sync_api import Page, sync_playwright

TIMEOUT_MS = 20_000
# Nothing but this host is found: neither by the page nor by what a browser asks of itself.
ARGUMENTS = ("--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1")


def try_out(page: Page, path: str) -> str:
    """Send the example of the operation at this path, and give the status that came back."""
    shown = json.dumps(path)
    block = page.locator(f".opblock-post:has([data-path={shown}])")
    block.locator(".opblock-summary-control").click()
    block.locator("button.execute").click()
    status = block.locator(".live-responses-table .response-col_status")
    status.first.wait_for()
    return status.last.inner_text().split()[0]


def main(chromium: str, url: str, path: str) -> None:
    seen: dict[str, list[str]] = {"requests": [], "console": [], "failed": []}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        page = browser.new_page()
        page.set_default_timeout(TIMEOUT_MS)
        page.on("request", lambda it: seen["requests"].append(it.url))
        page.on("requestfailed", lambda it: seen["failed"].append(it.url))
        page.on("pageerror", lambda it: seen["console"].append(str(it)))
        page.on(
            "console",
            lambda it: seen["console"].append(it.text) if it.type in ("error", "warning") else None,
        )
        page.goto(f"{url}/docs")
        page.locator(".opblock").first.wait_for()
        status = try_out(page, path)
        charset = page.evaluate("document.characterSet")
        found = {**seen, "status": status, "title": page.title(), "charset": charset}
        browser.close()
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
