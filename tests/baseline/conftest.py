from __future__ import annotations

import pytest

pytest.importorskip("pyarrow", reason="needs the extra `archive`: pip install 'speech-qc[archive]'")
