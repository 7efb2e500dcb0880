"""Quix Streams over payments, exactly once: how many and how much a customer paid in 30 days, two of 38 features.

Usage: `python quix_windows.py BROKER EVENTS DECISIONS STATE_FOLDER`.
"""

import sys
from datetime import timedelta

from quixstreams import Application
from quixstreams.dataframe.windows.aggregations import Count, Mean

BROKER, EVENTS, DECISIONS, FOLDER = sys.argv[1:]
TIGHT = {"fetch.queue.backoff.ms": 5}  # as Vigil's: by default a reader of a backlog waits for most of a second

app = Application(
    broker_address=BROKER,
    consumer_group="quix",
    auto_offset_reset="earliest",
    processing_guarantee="exactly-once",
    commit_interval=0.1,
    state_dir=FOLDER,
    consumer_extra_config=TIGHT,
    producer_extra_config={"compression.type": "lz4"},
    loglevel="ERROR",
)
events = app.topic(EVENTS, value_deserializer="json", timestamp_extractor=lambda value, *_: value["ts"])
decisions = app.topic(DECISIONS, value_serializer="json")
windows = app.dataframe(events).sliding_window(timedelta(days=30)).agg(count=Count(), mean=Mean("amount")).current()
windows.to_topic(decisions)
app.run()
