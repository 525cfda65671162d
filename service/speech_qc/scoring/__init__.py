"""From frame scores to answers: events, severity, summary, verdict, export files.

Pure functions and small streaming classes over NumPy arrays. Knows nothing of audio bytes, inference, asyncio or HTTP.
"""

from service.scoring.events import Event, EventTracker, EventUpdate
from service.scoring.exports import EXPORTS, ChannelReport, Export, Report, frames_csv
from service.scoring.profiles import BUILT_IN_PROFILES, MEASURES, Limit, Measure, Profile, Profiles, load_profiles
from service.scoring.reading import FRAME_DECIMALS, ScoreBatch, ScoreBlock, ScoreReader
from service.scoring.severity import Severity
from service.scoring.summary import Summary, SummaryMeter
from service.scoring.verdict import CODES, Reason, Status, Verdict, judge

__all__ = [
    "BUILT_IN_PROFILES",
    "CODES",
    "EXPORTS",
    "FRAME_DECIMALS",
    "MEASURES",
    "ChannelReport",
    "Event",
    "EventTracker",
    "EventUpdate",
    "Export",
    "Limit",
    "Measure",
    "Profile",
    "Profiles",
    "Reason",
    "Report",
    "ScoreBatch",
    "ScoreBlock",
    "ScoreReader",
    "Severity",
    "Status",
    "Summary",
    "SummaryMeter",
    "Verdict",
    "frames_csv",
    "judge",
    "load_profiles",
]
