"""Turns frame scores into events, severity, summary, verdict and export files.

Pure functions and small streaming classes over NumPy arrays. Independent of audio bytes, inference, asyncio and HTTP.
"""

from speech_qc.scoring.events import Event, EventTracker, EventUpdate
from speech_qc.scoring.exports import EXPORTS, ChannelReport, Export, Report, frames_csv
from speech_qc.scoring.limits import Limit
from speech_qc.scoring.losses import LossJoin, LossSpan, SpeechLoss
from speech_qc.scoring.measures import MEASURES, Measure
from speech_qc.scoring.profiles import BUILT_IN_PROFILES, Profile, Profiles, load_profiles
from speech_qc.scoring.reading import FRAME_DECIMALS, ScoreBatch, ScoreBlock, ScoreReader
from speech_qc.scoring.summary import Summary, SummaryMeter
from speech_qc.scoring.verdict import CODES, Reason, Verdict, judge

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
    "LossJoin",
    "LossSpan",
    "Measure",
    "Profile",
    "Profiles",
    "Reason",
    "Report",
    "ScoreBatch",
    "ScoreBlock",
    "ScoreReader",
    "SpeechLoss",
    "Summary",
    "SummaryMeter",
    "Verdict",
    "frames_csv",
    "judge",
    "load_profiles",
]
