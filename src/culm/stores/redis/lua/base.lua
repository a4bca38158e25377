-- What most scripts begin with. P is the prefix of the namespace's keys; scripts.py writes it in. ARGV[1] is now in ms ('': the server's
-- clock). The keys: docs/redis.md. Whatever is a constant costs nothing; whatever is put together here is so for each call.
local call = redis.call
local HELD, STATE, LANES, DEAD, EXPIRE, SCOPES = P .. 'held', P .. 'state', P .. 'lanes', P .. 'letters', P .. 'expire', P .. 'scopes'
local WAITS, TOMBS, PAUSED, JOBS, OUTCOMES = P .. 'waits', P .. 'tombs', P .. 'paused', P .. 'jobs', P .. 'outcomes'
local LARGE, REPLAYS, BUNDLED = P .. 'large', P .. 'replays', P .. 'bundled'
local RECORD, HEAD_FROM = '\148\207', 31 -- how a record begins, and where its head does: records.py
local INF, CHUNK = math.huge, 4000 -- `unpack` ends near 8,000 values
-- A small hash is a list, whose fields are searched one by one, until a value is longer than its server likes. No id is empty.
local LISTLESS, ROOMY = '', '------------------------------------------------------------------------------------------------'
local TOGETHER = 100 -- ids, a line each: one member of `g:` for jobs that were sent together, of `expire` for jobs that ended together
local ANSWERS_MS = '86400000' -- a client or claimer that is silent for longer cannot ask for its last answer again

local now = tonumber(ARGV[1])
if not now then
    local time = call('TIME')
    now = time[1] * 1000 + math.floor(time[2] / 1000)
end

-- What the server writes of a record, but for the last digits of `n`.
local function record_head()
    return RECORD .. struct.pack('>I8', now) .. '\176' .. string.format('%012x', call('INCR', P .. 'n'))
end

-- A command with many arguments, in as many calls as it takes.
local function many(command, key, list, from, to)
    for i = from, to, CHUNK do
        call(command, key, unpack(list, i, math.min(i + CHUNK - 1, to)))
    end
end

-- The answers of a look-up with many arguments, in one table.
local function ask(command, key, list, from, to)
    if to - from < CHUNK then
        return from > to and {} or call(command, key, unpack(list, from, to))
    end
    local found = {}
    for i = from, to, CHUNK do
        for _, value in ipairs(call(command, key, unpack(list, i, math.min(i + CHUNK - 1, to)))) do
            found[#found + 1] = value
        end
    end
    return found
end

local function forget(id)
    call('HDEL', JOBS, id)
    call('HDEL', LARGE, id)
    call('HDEL', OUTCOMES, id)
    call('HDEL', REPLAYS, id)
end

local function ring(queue)
    call('ZADD', P .. 'm:' .. queue, '0', '1')
end

-- A full server refuses a script's first write, if it takes memory, and only that one. What drains it, or keeps it alive, begins with this.
local function despite_full_memory()
    call('UNLINK', P .. '-')
end
