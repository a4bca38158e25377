"""Tasks in a module, for worker processes of their own; the jobs are in culm.db (or where $CULM_URL says) and survive all of them.

In one terminal, here:   culm worker mail:app --processes 2
In another:              culm enqueue mail:app mail.send '"ada@example.com"' subject='"hi"' --wait 10
Or from Python, as below: python mail.py
"""

from culm import App, Retry, RetryLater, current

app = App()


@app.task(queue="mail", retry=Retry(5, first=1, on=(ConnectionError,)), timeout=30, keep=3600)
def send(to: str, *, subject: str) -> str:
    """A plain function: it runs in a thread of the worker. The mail service acts once per key, however often this runs."""
    if current().attempt == 1 and to.startswith("busy@"):
        raise RetryLater("mailbox is busy", after=0.1)
    return f"{subject!r} to {to}, key {current().idempotency_key}"


def main() -> None:
    job = send.using(delay=1, priority=9).sync.enqueue("ada@example.com", subject="hi")
    print(f"sent job {job.id}; now run: culm worker mail:app")


if __name__ == "__main__":
    main()
