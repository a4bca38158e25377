-- What most scripts begin with, behind the names.
local NOW = ARGV[1] -- for commands: a number has to become a text first, which takes longer than most of them
if NOW == '' then
    local time = call('TIME')
    NOW = time[1] .. string.format('%03d', time[2] / 1000)
end
local now = tonumber(NOW)

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
