import hiredis
import pytest

from redisai_py import errors
from redisai_py.resp.redis_errors import error_in, redis_error


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("WRONGTYPE Operation against a key holding the wrong kind of value", errors.WrongType),
        ("OOM command not allowed when used memory > 'maxmemory'.", errors.OutOfMemory),
        ("LOADING Redis is loading the dataset in memory", errors.Loading),
        ("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", errors.Loading),
        ("BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.", errors.Busy),
        ("TRYAGAIN Multiple keys request during rehashing of slot", errors.Busy),
        ("CLUSTERDOWN Hash slot not served", errors.Busy),
        ("NOPERM User u has no permissions to run the 'get' command", errors.NotPermitted),
        ("NOAUTH Authentication required.", errors.NotAuthenticated),
        ("MOVED 3999 127.0.0.1:6381", errors.Moved),
        ("ASK 3999 127.0.0.1:6381", errors.Moved),
        ("NOSCRIPT No matching script.", errors.NoScript),
        ("EXECABORT Transaction discarded because of previous errors.", errors.TransactionAborted),
        ("UNPROVEN NOPERM this user has no permissions to access one of the keys", errors.Unproven),
        ("DENIED Redis is running in protected mode", errors.NoRoom),
        ("ERR max number of clients reached", errors.NoRoom),
        ("ERR no such key", errors.NoSuchKey),
        ("ERR Protocol error: invalid bulk length", errors.WrongFraming),
        ("ERR unknown command 'LOADING'", errors.UpstreamError),
        ("READONLY You can't write against a read only replica.", errors.UpstreamError),
        ("MOVEDTO elsewhere", errors.UpstreamError),
    ],
)
@pytest.mark.parametrize("reply_of", [str, hiredis.ReplyError])
def test_the_code_tells_the_kind_and_the_text_stays(text, kind, reply_of):
    error = redis_error(reply_of(text))
    assert type(error) is kind
    assert str(error) == text


def test_the_wrong_type_is_found_behind_the_line_of_a_script():
    error = redis_error(
        "ERR Error running script (call to f_3): @user_script:1: WRONGTYPE Operation against a key holding the wrong "
        "kind of value"
    )
    assert type(error) is errors.WrongType
    assert str(error) == "WRONGTYPE Operation against a key holding the wrong kind of value"


def test_an_exception_of_ours_is_what_it_is():
    lost = errors.UpstreamLost("ERR gone")
    assert redis_error(lost) is lost


def test_a_reply_as_it_came():
    assert error_in(b"+PONG\r\n") is None
    error = error_in(b"-NOAUTH Authentication required.\r\n")
    assert type(error) is errors.NotAuthenticated
    assert str(error) == "NOAUTH Authentication required."
