"""Reading of request heads: what a pool sends again and again is parsed once, with the same outcome."""

import pytest
from portico_worker import http1

REST = b"content-type: application/json\r\nx-a: 1\r\ncontent-length: 5\r\n"


def head(number=1, deadline=b"250", identity=b"id-1", rest=REST, line=b"POST /score?a=b HTTP/1.1\r\n"):
    """A request head as a pool writes it."""
    own = b"x-portico-number: %d\r\nx-portico-deadline-ms: %b\r\nx-request-id: %b\r\n" % (number, deadline, identity)
    return line + own + rest


def told(request):
    """All that a request says of itself."""
    return request.method, request.path, request.query, request.length, request.head.closes, dict(request.fields)


def test_a_known_head_is_read_as_if_it_were_new():
    """The fields that differ are those of each request."""
    http1.parse_head(head(7))
    again = http1.parse_head(head(8, b"99", b"id-2"))
    assert (again.sequence, again.deadline, again.identity) == (8, b"99", b"id-2")
    foreign = head(8, b"99", b"id-2").replace(b"x-portico-number", b"X-Portico-Number")
    other = http1.parse_head(foreign)
    assert other.sequence is None
    assert other.number(b"x-portico-number") == again.number(b"x-portico-number") == 8
    assert told(again) == told(other)


@pytest.mark.parametrize(
    "rest",
    [
        REST + b"x-portico-number: 9\r\n",
        REST + b"X-Portico-Deadline-Ms: 9\r\n",
        REST + b"content-length: 5\r\n",
        REST + b"folded:\r\n x\r\n",
        REST + b"no colon\r\n",
        REST.replace(b"\r\nx-a", b"\nx-a"),
    ],
)
def test_what_is_refused_is_not_remembered(rest):
    """A head that may be read in two ways is refused each time."""
    for number in (1, 2):
        with pytest.raises(http1.Refused):
            http1.parse_head(head(number, rest=rest))


def test_a_second_id_is_joined_as_in_any_head():
    """The fast way makes no difference to what user code sees."""
    for number in (1, 2):
        request = http1.parse_head(head(number, identity=b"a", rest=REST + b"X-Request-Id: b\r\n"))
        assert request.fields[b"x-request-id"] == b"a, b"


def test_few_heads_are_remembered():
    """Callers that never repeat themselves cost no memory."""
    for i in range(3 * http1.KNOWN_MAX):
        http1.parse_head(head(rest=b"x-trace: %d\r\n" % i))
    http1.parse_head(head(rest=b"x-long: %b\r\n" % (b"x" * http1.KNOWN_BYTES)))
    assert len(http1._known) <= http1.KNOWN_MAX
    assert all(len(rest) <= http1.KNOWN_BYTES for _, rest in http1._known)
