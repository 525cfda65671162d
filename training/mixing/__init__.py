"""Makes degraded speech with exact per-frame targets: parameters are drawn first, applied second, judged from stems."""
