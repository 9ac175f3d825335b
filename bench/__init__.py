"""What a request costs: llmgate beside a bare pass-through on the same server and transport. See README.md."""
