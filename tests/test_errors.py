from speech_qc import errors
from speech_qc.errors import SpeechQCError
from speech_qc.wire.schemas import ErrorAnswer


def tree(kind=SpeechQCError):
    return [kind, *(below for child in kind.__subclasses__() for below in tree(child))]


def served():
    return [kind for kind in tree() if kind.__module__ == errors.__name__]


def test_every_error_has_its_own_code():
    codes = [kind.code for kind in served()]
    assert len(set(codes)) == len(codes) > 12


def test_every_error_has_a_status_and_a_close_code_that_exist():
    for kind in served():
        assert 400 <= kind.http_status < 600, kind
        assert 1000 < kind.ws_close < 1015, kind


def test_only_errors_that_may_pass_ask_to_retry():
    for kind in served():
        if kind.retry_after_s is not None:
            assert kind.retryable, kind


def test_the_body_is_the_same_for_all():
    for kind in served():
        body = kind("expected a, got b: do c", limit=3).body("id-1")
        assert body == {
            "error": {
                "code": kind.code,
                "message": "expected a, got b: do c",
                "detail": {"limit": 3},
                "request_id": "id-1",
            }
        }
        assert ErrorAnswer(**body).model_dump() == body, "the type that OpenAPI shows"


def test_the_drawing_names_every_error():
    for kind in served():
        assert kind.__name__ in (errors.__doc__ or "")
