"""What a person does in the Prefect UI, done in a real browser."""

import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tests.servers import wait_until

if TYPE_CHECKING:
    from selenium.webdriver import Chrome
    from selenium.webdriver.remote.webelement import WebElement


def button(chrome: "Chrome", text: str) -> "WebElement":
    """The button of this text, as soon as it is there."""
    from selenium.webdriver.common.by import By

    found = wait_until(
        lambda: [one for one in chrome.find_elements(By.TAG_NAME, "button") if one.text.strip() == text],
        told=lambda: chrome.find_element(By.TAG_NAME, "body").text,
    )
    return found[0]


def start_run(chrome: "Chrome", page: str, picture: Path, **texts: str) -> str:
    """Fill the form of a deployment's run and submit it; gives what the form shows.

    Args:
        chrome: the browser.
        page: address of the form.
        picture: of the filled form, written before it is submitted.
        texts: name of a parameter to the text that is typed for it.
    """
    from selenium.common.exceptions import (
        ElementNotInteractableException,
        NoSuchElementException,
        StaleElementReferenceException,
    )
    from selenium.webdriver.common.by import By

    def fields() -> "dict[str, WebElement]":
        found = chrome.find_elements(By.CSS_SELECTOR, ".schema-form-property")
        # While the page is being built, what was found a moment ago may be gone.
        with suppress(StaleElementReferenceException, NoSuchElementException):
            return {label(one): one for one in found}
        return {}

    def label(field: "WebElement") -> str:
        return field.find_element(By.CSS_SELECTOR, ".schema-form-property__label").text.partition(" ")[0]

    def type_in(name: str, text: str) -> bool:
        with suppress(StaleElementReferenceException, KeyError, ElementNotInteractableException):
            field = fields()[name]
            for kind in field.find_elements(By.CSS_SELECTOR, ".p-button-group button"):
                if kind.text.strip() == "str":
                    kind.click()
            (area,) = field.find_elements(By.TAG_NAME, "textarea") or [None]
            if area is not None:
                area.clear()
                area.send_keys(text)
                return area.get_attribute("value") == text
        return False

    chrome.set_window_size(1400, 1900)
    chrome.get(page)
    submit = button(chrome, "Submit")
    wait_until(lambda: set(texts) <= set(fields()), told=lambda: chrome.find_element(By.TAG_NAME, "body").text)
    for name, text in texts.items():
        wait_until(partial(type_in, name, text), told=lambda: chrome.find_element(By.TAG_NAME, "body").text)
    shown = chrome.find_element(By.TAG_NAME, "body").text
    chrome.save_screenshot(str(picture))
    submit.click()
    wait_until(lambda: chrome.current_url != page, told=lambda: chrome.find_element(By.TAG_NAME, "body").text)
    return shown


def approve(chrome: "Chrome", page: str) -> list[str]:
    """Approve as ann the question that the run of this page has asked; gives what was shown on the way."""
    from selenium.common.exceptions import (
        ElementClickInterceptedException,
        StaleElementReferenceException,
        TimeoutException,
    )
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select, WebDriverWait

    chrome.get(page)
    button(chrome, "Resume").click()
    submit = button(chrome, "Submit")
    modal = chrome.find_element(By.CSS_SELECTOR, ".p-modal")
    name, reason, digest = wait_until(lambda: modal.find_elements(By.TAG_NAME, "textarea"))
    decision = Select(modal.find_element(By.TAG_NAME, "select"))
    seen = [modal.text, digest.get_attribute("value") or "", decision.first_selected_option.text]
    seen += [line.text for line in modal.find_elements(By.CSS_SELECTOR, "li")]
    # Without a name nothing is sent.
    submit.click()
    seen.append(wait_until(lambda: "is a required property" in modal.text and modal.text))
    decision.select_by_visible_text("approve")
    name.send_keys("ann")
    reason.send_keys("the numbers are clear")
    # The complaint goes away and the form moves; a click on its way, or a busy database, is tried again.
    wait_until(lambda: "is a required property" not in modal.text)
    answered = time.monotonic()
    while chrome.find_elements(By.CSS_SELECTOR, ".p-modal textarea"):
        assert time.monotonic() < answered + 60, chrome.find_element(By.TAG_NAME, "body").text
        with suppress(ElementClickInterceptedException, StaleElementReferenceException):
            submit.click()
        with suppress(TimeoutException):
            WebDriverWait(chrome, 10).until_not(lambda shown: shown.find_elements(By.CSS_SELECTOR, ".p-modal textarea"))
    return seen
