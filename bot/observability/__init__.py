"""What the running bot tells of itself: logs, health and metrics."""
