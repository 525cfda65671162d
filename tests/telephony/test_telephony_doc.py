"""docs/telephony.md: its commands run, and it names every vendor and setting."""

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from speech_qc.settings import Settings
from speech_qc.telephony.recognise import PROTOCOLS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "telephony.md").read_text(encoding="utf-8")


def test_every_vendor_and_setting_is_described():
    for vendor in PROTOCOLS:
        assert f"`{vendor}`" in PAGE, vendor
    for name in Settings.model_fields:
        if name.startswith(("telephony_", "twilio_", "plivo_", "genesys_", "audiosocket")):
            assert f"SPEECHQC_{name.upper()}" in PAGE, name


@pytest.mark.slow
def test_the_first_call_of_the_page_works():
    section = PAGE.split("## A first call in five minutes")[1].split("\n## ")[0]
    install, commands = re.findall(r"^```sh\n(.*?)^```$", section, re.M | re.S)
    assert install.startswith("pip install")  # done already: both are installed here
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    program = f"{sys.executable} -m speech_qc"
    double = f"""{sys.executable} -c 'import sys; from streamdouble.cli import main; sys.exit(main())'"""
    script = commands.replace("8000", port).replace("speech-qc serve", f"{program} serve")
    script = script.replace("streamdouble call", f"{double} call")
    run = subprocess.run(
        ["bash", "-m", "-e", "-o", "pipefail", "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert 'speechqc_telephony_legs_total{vendor="twilio"} 2.0' in run.stdout
    assert "call from twilio: ok, 2 legs" in run.stdout + run.stderr
    (call,) = json.loads(next(line for line in run.stdout.splitlines() if line.startswith('{"calls"')))["calls"]
    assert (call["vendor"], call["trunk"], len(call["legs"])) == ("twilio", "a1", 2)
    assert call["interaction"]["duration_s"] > 5
