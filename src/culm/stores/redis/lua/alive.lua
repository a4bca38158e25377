-- Whether the store was away. Workers speak to it several times in a lease; when none of them did for half a lease, it was killed,
-- stopped or cut off, and leases may have run out that nobody could extend. So nothing is taken over for GRACE_MS, within which every
-- client is back. `alive`: when a worker last spoke, and until when nothing is taken over.
local ALIVE, GRACE_MS, SHORTEST_SILENCE_MS, NOTE_EVERY_MS = P .. 'alive', 10000, 2000, 200

-- A worker speaks, of a lease of for_ms. -> true while leases that ran out still hold. Whoever brings a clock is judged by it alone.
local function in_grace(for_ms)
    if ARGV[1] ~= '' then
        return false
    end
    local known = call('GET', ALIVE)
    local last, until_ms = string.match(known or NOW .. ' 0', '^(%d+) (%d+)$')
    last, until_ms = tonumber(last), tonumber(until_ms)
    local silent = now - last > math.max(for_ms / 2, SHORTEST_SILENCE_MS)
    if silent then
        until_ms = now + GRACE_MS
    end
    if not known or silent or math.abs(now - last) > NOTE_EVERY_MS then
        call('SET', ALIVE, string.format('%s %.0f', NOW, until_ms))
    end
    return now < until_ms and until_ms <= now + GRACE_MS -- later than that: the clock was set back
end
