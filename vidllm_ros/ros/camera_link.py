# SPDX-License-Identifier: Apache-2.0
"""What the middleware tells about one subscription, kept for the diagnostics and said in words.

Publishers that come and go, an incompatible quality of service, a missed deadline, a publisher
that shows no life, messages lost on the way: each is an event of its own in ROS 2 and silent
unless somebody listens. Next: inputs.py, which opens one of these for each topic.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.event_handler import SubscriptionEventCallbacks, UnsupportedEventTypeError
from rclpy.lifecycle import LifecycleNode
from rclpy.node import Node
from rclpy.qos import qos_policy_name_from_kind

from vidllm_ros.ros.callbacks import guarded
from vidllm_ros.ros.health import LinkReport
from vidllm_ros.ros.qos import overridable_input, profile
from vidllm_ros.ros.topics import NODE_NAME, STATUS, Topic, type_name

Say = Callable[[str, str, str], None]
"""Topic, cause, words: a complaint that is throttled by topic and cause."""


def cameras_elsewhere(node: Node, wanted: str, topic: str) -> tuple[str, ...]:
    """Name the other topics of a type that somebody publishes, but for what our nodes make."""
    known = node.get_topic_names_and_types()
    # A renamed one, of another robot, is known by its status.
    told = [name for name, types in known if type_name(STATUS.type) in types]
    robots = {who for name in told for who in _publishing(node, name)}
    ours = {NODE_NAME, node.get_name()}
    found = []
    for name, types in known:
        if wanted in types and name != topic:
            others = _publishing(node, name) - robots
            if any(node_name not in ours for _, node_name in others):
                found.append(name)
    return tuple(found)


def _publishing(node: Node, topic: str) -> set[tuple[str, str]]:
    """Name the nodes that publish a topic, each with its namespace."""
    offered = node.get_publishers_info_by_topic(topic)
    return {(info.node_namespace, info.node_name) for info in offered}


class CameraLink:
    """A subscription and what became of its publishers.

    Attributes:
        topic: resolved name.
        incompatible_qos: policy in which a publisher and this subscription disagree; empty where
            none does.
    """

    def __init__(self, node: LifecycleNode, wanted: Topic, say: Say) -> None:
        self._node = node
        self._wanted = wanted
        self._say = say
        self._has_left = False
        self._subscription: Any = None
        self.topic = wanted.name
        self.incompatible_qos = ""
        self._missed_deadlines = 0
        self._lost_messages = 0

    def open(self, callback: Callable[[Any], None], group: CallbackGroup) -> None:
        """Subscribe; events a middleware does not know are left out."""

        def create(**events: Callable[[Any], None]) -> Any:
            known: dict[str, Any] = {
                name: guarded(self._node, name, call) for name, call in events.items()
            }
            return self._node.create_subscription(
                self._wanted.type,
                self._wanted.name,
                guarded(self._node, self._wanted.name, callback),
                profile(self._wanted.qos),
                callback_group=group,
                event_callbacks=SubscriptionEventCallbacks(**known),
                qos_overriding_options=overridable_input(),
            )

        common = {"incompatible_qos": self._incompatible, "deadline": self._deadline}
        try:
            self._subscription = create(
                **common,
                liveliness=self._liveliness,
                message_lost=self._lost,
                matched=self._matched,
            )
        except UnsupportedEventTypeError:  # not every middleware counts what it loses
            self._subscription = create(**common)
        self.topic = self._subscription.topic_name

    def close(self) -> None:
        """Unsubscribe; may be called again."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            self._node.destroy_subscription(subscription)

    def report(self) -> LinkReport:
        """Look at the graph and say how the topic stands."""
        wanted = type_name(self._wanted.type)
        offered = self._node.get_publishers_info_by_topic(self.topic)
        return LinkReport(
            topic=self.topic,
            publishers=sum(info.topic_type == wanted for info in offered),
            other_types=tuple(sorted({i.topic_type for i in offered if i.topic_type != wanted})),
            wanted_type=wanted,
            elsewhere=cameras_elsewhere(self._node, wanted, self.topic),
            incompatible_qos=self.incompatible_qos,
            lost=self._lost_messages,
            missed_deadlines=self._missed_deadlines,
        )

    def _incompatible(self, event: Any) -> None:
        self.incompatible_qos = qos_policy_name_from_kind(event.last_policy_kind).lower()
        words = (
            f"a publisher offers an incompatible {self.incompatible_qos} and is not heard; change "
            f"it there, or override qos_overrides.{self.topic}.subscription here"
        )
        self._say(self._wanted.name, "qos", words)

    def _matched(self, event: Any) -> None:
        if event.current_count_change > 0:
            self.incompatible_qos = ""
            if self._has_left:
                self._node.get_logger().info(f"{self.topic}: a publisher is back")
            self._has_left = False
        elif event.current_count == 0:
            self._has_left = True
            words = "the last publisher has gone; frames go on when one comes back"
            self._say(self._wanted.name, "gone", words)

    def _liveliness(self, event: Any) -> None:
        if event.not_alive_count_change > 0:
            self._say(self._wanted.name, "liveliness", "a publisher shows no life any more")

    def _deadline(self, event: Any) -> None:
        self._missed_deadlines = event.total_count
        words = f"no message within the deadline asked for ({event.total_count} times so far)"
        self._say(self._wanted.name, "deadline", words)

    def _lost(self, event: Any) -> None:
        self._lost_messages = event.total_count
