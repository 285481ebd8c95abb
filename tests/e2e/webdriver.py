"""A browser for tests: Chromium without a window, driven through chromedriver (www.w3.org/TR/webdriver2).

Only the standard library. find() says whether both programs are there; a Browser ends what it started.
"""

import base64
import json
import pathlib
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the standard's key of element references
TAB, ENTER, ESCAPE, SPACE = "\ue004", "\ue007", "\ue00c", " "
LEFT, RIGHT, DOWN, SHIFT = "\ue012", "\ue014", "\ue015", "\ue008"


def find():
    """(chromium, chromedriver), or None if one is missing."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    return (browser, driver) if browser and driver else None


class WebDriverError(Exception):
    def __init__(self, value):
        super().__init__(
            f"{value.get('error')}: {value.get('message', '').splitlines()[0] if value.get('message') else ''}"
        )
        self.error = value.get("error")


class Element:
    def __init__(self, browser, reference):
        self.browser = browser
        self.reference = reference

    def click(self):
        self.browser.command("POST", f"/element/{self.reference}/click", {})

    def type(self, text):
        self.browser.command("POST", f"/element/{self.reference}/value", {"text": text})

    def clear(self):
        self.browser.command("POST", f"/element/{self.reference}/clear", {})

    @property
    def text(self):
        return self.browser.command("GET", f"/element/{self.reference}/text")

    @property
    def value(self):
        return self.browser.command("GET", f"/element/{self.reference}/property/value")


class Browser:
    def __init__(self, chromium, chromedriver, width=1280, height=900):
        self.profile = tempfile.mkdtemp(prefix="qamserve-browser-")
        # Port 0: the driver says on its output which one it took.
        self.driver = subprocess.Popen(
            [chromedriver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.session = ""
        try:
            self.base = f"http://127.0.0.1:{self._port()}"
            arguments = [
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--hide-scrollbars",
                "--lang=en-US",
                f"--user-data-dir={self.profile}",
                f"--window-size={width},{height}",
            ]
            options = {"binary": chromium, "args": arguments}
            capabilities = {
                "browserName": "chrome",
                "goog:chromeOptions": options,
                "goog:loggingPrefs": {"browser": "ALL"},
                "unhandledPromptBehavior": "dismiss",
            }
            made = self._send("POST", "/session", {"capabilities": {"alwaysMatch": capabilities}}, timeout=120)
            self.session = f"/session/{made['sessionId']}"
            self.command("POST", "/timeouts", {"script": 60000, "pageLoad": 60000, "implicit": 0})
        except BaseException:
            self.close()
            raise

    def _port(self):
        for line in self.driver.stdout:
            if "started successfully on port" in line:
                return int(line.rsplit(" ", 1)[1].rstrip(".\n"))
        raise RuntimeError("chromedriver ended before it listened")

    def _send(self, method, path, body=None, timeout=90):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.base + path, data=data, method=method, headers={"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise WebDriverError(json.load(error)["value"]) from None

    def command(self, method, path, body=None):
        return self._send(method, self.session + path, body)

    def close(self):
        try:
            if self.session:
                self.command("DELETE", "")
        except (OSError, WebDriverError):
            pass
        self.driver.terminate()
        self.driver.wait()
        self.driver.stdout.close()
        shutil.rmtree(self.profile, ignore_errors=True)

    # --- The page ---
    def open(self, url):
        self.command("POST", "/url", {"url": url})

    def all(self, selector):
        found = self.command("POST", "/elements", {"using": "css selector", "value": selector})
        return [Element(self, reference[ELEMENT]) for reference in found]

    def one(self, selector, seconds=20):
        """The first element that `selector` finds, once it is there."""
        return self.until(lambda: next(iter(self.all(selector)), None), f"no {selector}", seconds)

    def button(self, words, seconds=20):
        """The button or link whose text or label is, or begins with, `words` and that can be seen."""
        script = """
            const [words] = arguments;
            const nodes = [...document.querySelectorAll('dialog[open] button, dialog[open] a')];
            const all = nodes.length ? nodes : [...document.querySelectorAll('button, a, summary')];
            const said = (n) => [n.textContent.trim(), n.getAttribute('aria-label') ?? ''];
            const seen = all.filter((n) => n.offsetParent !== null);
            return seen.find((n) => said(n).includes(words))
              ?? seen.find((n) => said(n).some((t) => t.startsWith(words))) ?? null;
        """
        found = self.until(lambda: self.run(script, words), f"no button {words}", seconds)
        return Element(self, found[ELEMENT])

    def field(self, label, seconds=20):
        """The input that the visible label `label` names."""
        script = """
            const scope = document.querySelector('dialog[open]') ?? document;
            const labels = [...scope.querySelectorAll('label')].filter((l) => l.offsetParent !== null);
            return labels.find((l) => l.textContent.trim() === arguments[0])?.control ?? null;
        """
        found = self.until(lambda: self.run(script, label), f"no field {label}", seconds)
        return Element(self, found[ELEMENT])

    def run(self, script, *arguments):
        return self.command("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def run_async(self, script, *arguments):
        """`script` is the body of an async function; its value, or the error that it threw."""
        wrapped = (
            "const done = arguments[arguments.length - 1];"
            f"(async (...args) => {{ {script} }})(...arguments)"
            ".then((value) => done({value}), (error) => done({error: String(error)}));"
        )
        answer = self.command("POST", "/execute/async", {"script": wrapped, "args": list(arguments)})
        if "error" in answer:
            raise AssertionError(answer["error"])
        return answer.get("value")

    def text(self, selector="body"):
        return self.run("return document.querySelector(arguments[0])?.innerText ?? ''", selector)

    def until(self, condition, what, seconds=20):
        """The first true value of `condition`."""
        end = time.monotonic() + seconds
        while True:
            try:
                value = condition()
                if value:
                    return value
            except WebDriverError as error:
                if error.error != "stale element reference":
                    raise
            if time.monotonic() > end:
                raise AssertionError(f"{what} after {seconds} s; the page says:\n{self.text()[:3000]}")
            time.sleep(0.05)

    def wait_text(self, words, selector="body", seconds=20):
        self.until(lambda: words in self.text(selector), f"no text {words!r}", seconds)

    def keys(self, *keys):
        """Presses keys at whatever has the focus; a tuple is held together."""
        actions = []
        for key in keys:
            together = key if isinstance(key, tuple) else (key,)
            actions += [{"type": "keyDown", "value": k} for k in together]
            actions += [{"type": "keyUp", "value": k} for k in reversed(together)]
        self.command("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def log(self):
        """What the page's console was told since the last call: [(level, message)]."""
        return [(entry["level"], entry["message"]) for entry in self.command("POST", "/se/log", {"type": "browser"})]

    # --- How it looks ---
    def devtools(self, name, **parameters):
        return self.command("POST", "/goog/cdp/execute", {"cmd": name, "params": parameters})

    def media(self, **features):
        """media(prefers_color_scheme="dark"); without arguments: what the system says."""
        self.devtools(
            "Emulation.setEmulatedMedia",
            features=[{"name": name.replace("_", "-"), "value": value} for name, value in features.items()],
        )

    def viewport(self, width, height, phone=False):
        self.devtools(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone
        )

    def screenshot(self, path):
        """The whole page, not only what is in view."""
        size = self.devtools("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        shot = self.devtools("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        path = pathlib.Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(shot["data"]))
