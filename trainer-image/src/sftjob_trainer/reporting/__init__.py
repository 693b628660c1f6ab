"""Progress reports, trackers, timing and MFU."""
