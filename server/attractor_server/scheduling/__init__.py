"""Jobs, the queue that they wait in, and the batcher that takes them from it. asyncio, without torch."""
