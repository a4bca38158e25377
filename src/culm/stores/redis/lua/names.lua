-- What most scripts begin with: names, which cost nothing; whatever is put together later is so for each call. P is the prefix of the
-- namespace's keys; scripts.py writes it in. ARGV[1] is now in ms ('': the server's clock). The keys: docs/redis.md.
local call, ARGV = redis.call, ARGV -- the latter is a global, which is looked up at each use
local HELD, STATE, LANES, DEAD, EXPIRE, SCOPES = P .. 'held', P .. 'state', P .. 'lanes', P .. 'letters', P .. 'expire', P .. 'scopes'
local WAITS, TOMBS, PAUSED, JOBS, OUTCOMES = P .. 'waits', P .. 'tombs', P .. 'paused', P .. 'jobs', P .. 'outcomes'
local LARGE, REPLAYS, BUNDLED = P .. 'large', P .. 'replays', P .. 'bundled'
local RECORD, HEAD_FROM = '\148\207', 31 -- how a record begins, and where its head does: records.py
local INF, CHUNK = math.huge, 4000 -- `unpack` ends near 8,000 values
-- A small hash is a list, whose fields are searched one by one, until a value is longer than its server likes. No id is empty.
local LISTLESS, ROOMY = '', '------------------------------------------------------------------------------------------------'
local TOGETHER = 100 -- ids, a line each: one member of `g:` for jobs that were sent together, of `expire` for jobs that ended together
local ANSWERS_MS = '86400000' -- a client or claimer that is silent for longer cannot ask for its last answer again
