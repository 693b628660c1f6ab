"""Stand-ins for servers: hub, object stores, web, trackers, the progress endpoint, and an API that misbehaves."""
