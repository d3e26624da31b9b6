"""What computes: torch on a card, OpenVINO or torch on the CPU."""
