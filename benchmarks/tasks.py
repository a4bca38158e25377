"""The app that is measured: its store is `$CULM_URL`."""

from culm import App

app = App()


@app.task(keep=0, timeout=30)
async def gone(x: int) -> None:
    """A no-op whose row goes with its commit."""


@app.task(keep=3600, timeout=30)
async def kept(x: int) -> int:
    """A no-op whose result is kept for an hour."""
    return x


@app.task(keep=0, timeout=60)
async def held(x: int) -> None:
    """Stays in flight until the worker is stopped."""
    import asyncio

    await asyncio.sleep(60)
