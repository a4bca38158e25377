-- How jobs ended. ARGV: now, the channel to tell of those that have not ('': none), ids...
-- -> for each: what `o:` holds (it ended), 1 (it has not) or 0 (there is no such job)
local channel, answers, writes = ARGV[2], {}, false
for i = 3, #ARGV do
    local id = ARGV[i]
    local outcome = call('GET', P .. 'o:' .. id)
    if outcome and string.sub(outcome, 1, 1) == 'F' then
        answers[i - 2] = outcome
    elseif call('EXISTS', P .. 'j:' .. id) == 0 then
        answers[i - 2] = 0
    else
        answers[i - 2] = 1
        if channel ~= '' then
            local others = call('HGET', WAITS, id)
            if not writes then
                despite_full_memory()
                writes = true
            end
            if not others then
                call('HSET', WAITS, id, channel)
            elseif not string.find('\n' .. others .. '\n', '\n' .. channel .. '\n', 1, true) then
                call('HSET', WAITS, id, others .. '\n' .. channel)
            end
        end
    end
end
return answers
