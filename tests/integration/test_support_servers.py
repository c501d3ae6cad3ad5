"""The servers that tests rely on do what their levers say."""

import pytest

from tests.support.rabbitmq import Vhost

pytestmark = pytest.mark.rabbitmq


def test_a_message_published_is_there(vhost: Vhost) -> None:
    with vhost.channel() as channel:
        channel.queue_declare("q", durable=True, arguments={"x-queue-type": "quorum"})
    vhost.publish_raw("", "q", b"hello")
    assert vhost.ready("q") == 1
    answer = vhost.get("q")
    assert answer is not None
    assert answer[0] == b"hello"
