"""What of a job the fast path must not overlook. A job with flags takes the plain path, statement by statement.

They are bits of `jobs.flags`; above them is a number, how often it was replayed.
"""

TOPIC = 1  # its end is recorded as an event
SCOPED = 2  # its scope counts its jobs
WATCHED = 4  # a trigger waits for its end
AGAIN = 8  # released while leased
CANCELLED = 16  # asked to stop while leased
REPLAYED = 8  # so many bits lie below that number
