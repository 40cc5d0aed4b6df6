"""A headless Chromium over its debugging pipe: nothing but Python is needed."""

import base64
import contextlib
import json
import os
import select
import shutil
import signal
import tempfile
import time
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless",
    "--no-sandbox",  # it opens our own files alone; as root it starts no other way
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--no-first-run",
    "--remote-debugging-pipe",
)
KEYS = {"ArrowRight": 39, "ArrowLeft": 37, "ArrowDown": 40, "ArrowUp": 38}
KEYS |= {"Enter": 13, "Escape": 27, "Tab": 9, "Home": 36, "End": 35, " ": 32}
TEXT = {"Enter": "\r", " ": " "}
PATIENCE = 60.0


def found():
    """The browser's path, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One window of one browser."""

    def __init__(self):
        self.folder = tempfile.mkdtemp()
        theirs, self.write = os.pipe()
        self.read, also_theirs = os.pipe()
        quiet = os.open(os.devnull, os.O_RDWR)
        moved = [(theirs, 3), (also_theirs, 4), (quiet, 1), (quiet, 2)]
        # first out of the way of 3 and 4
        actions = [(os.POSIX_SPAWN_DUP2, fd, 40 + i) for i, (fd, _) in enumerate(moved)]
        actions += [
            (os.POSIX_SPAWN_DUP2, 40 + i, to) for i, (_, to) in enumerate(moved)
        ]
        self.pid = os.posix_spawn(
            found(),
            [found(), *FLAGS, f"--user-data-dir={self.folder}"],
            os.environ,
            file_actions=actions,
            setpgroup=0,
        )
        for fd in (theirs, also_theirs, quiet):
            os.close(fd)
        self.number, self.buffer, self.session = 0, b"", None
        self.events = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def close(self):
        with contextlib.suppress(OSError):
            os.killpg(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.read)
        os.close(self.write)
        shutil.rmtree(self.folder, ignore_errors=True)

    def call(self, method, **params):
        """Send a command; its result."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.write, json.dumps(message).encode() + b"\0")
        while (answer := self.message()).get("id") != self.number:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def message(self):
        end = time.monotonic() + PATIENCE
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.read], [], [], end - time.monotonic())
            assert ready, "the browser does not answer"
            self.buffer += os.read(self.read, 1 << 20)
        line, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(line)

    def open(self, path, width, height, **features):
        """Load a file in a window of this size; forgets earlier events."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        features.setdefault(
            "prefers_reduced_motion", "reduce"
        )  # clicks hit what stands
        media = [{"name": k.replace("_", "-"), "value": v} for k, v in features.items()]
        self.call("Emulation.setEmulatedMedia", features=media)
        self.events.clear()
        went = self.call("Page.navigate", url=Path(path).resolve().as_uri())
        assert "errorText" not in went, went
        while not any(e.get("method") == "Page.loadEventFired" for e in self.events):
            self.events.append(self.message())

    def run(self, script):
        """The value of an expression on the page."""
        answer = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, *keys):
        """Press keys as a person does."""
        for key in keys:
            known = {"windowsVirtualKeyCode": KEYS.get(key, 0), "key": key}
            text = TEXT.get(key, key if len(key) == 1 else None)
            down = {"text": text} if text else {}
            kind = "keyDown" if text else "rawKeyDown"
            self.call("Input.dispatchKeyEvent", type=kind, **known, **down)
            self.call("Input.dispatchKeyEvent", type="keyUp", **known)

    def click(self, selector):
        """Press the mouse in the middle of an element."""
        x, y = self.run(
            f"(() => {{ const node = document.querySelector({json.dumps(selector)});"
            "node.scrollIntoView({block: 'center', behavior: 'instant'});"
            "const r = node.getBoundingClientRect();"
            "return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call(
                "Input.dispatchMouseEvent",
                type=kind,
                x=x,
                y=y,
                button="left",
                clickCount=1,
            )

    def complaints(self):
        """Errors and warnings on the console, and exceptions, since the page opened."""
        self.run("new Promise(done => setTimeout(done, 50))")
        kinds = {f"Runtime.{name}" for name in ("exceptionThrown", "consoleAPICalled")}
        kinds.add("Log.entryAdded")
        return [e for e in self.events if e.get("method") in kinds]

    def requests(self):
        """Addresses that were asked for since the page opened."""
        sent = [
            e for e in self.events if e.get("method") == "Network.requestWillBeSent"
        ]
        return [e["params"]["request"]["url"] for e in sent]

    def screenshot(self, path, *, whole=False):
        """A PNG of the window, or of the whole page."""
        options = {}
        if whole:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            options = {"captureBeyondViewport": True, "clip": {**size, "scale": 1}}
        data = self.call("Page.captureScreenshot", format="png", **options)["data"]
        Path(path).write_bytes(base64.b64decode(data))
