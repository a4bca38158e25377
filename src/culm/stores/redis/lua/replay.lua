-- Dead letters become claimable again. ARGV: now, ids... -> how many were
local replayed = 0
for i = 2, #ARGV do
    local id = ARGV[i]
    if call('ZSCORE', DEAD, id) then
        local row, outcome = head_of(id), call('HGET', OUTCOMES, id)
        call('ZREM', DEAD, id)
        if row and outcome then
            local kind, fence, ended = string.match(outcome, '^F(%d) %d+ %d+ (%d+) [^\n]*\n()')
            row.fence, row.sent, row.due = tonumber(fence), now, now
            call('HSET', OUTCOMES, id, 'L' .. kind .. '\n' .. string.sub(outcome, ended))
            call('HINCRBY', REPLAYS, id, 1)
            enter(id, row.topic)
            open_at(row, now)
            save(row)
            replayed = replayed + 1
        end
    end
end
ring_told()
return replayed
