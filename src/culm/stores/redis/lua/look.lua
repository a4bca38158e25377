-- How jobs ended. ARGV: now, the channel to tell of those that have not ('': none), ids...
-- -> for each: what `outcomes` holds (it ended), 1 (it has not) or 0 (there is no such job)
local channel, answers, waiting, w = ARGV[2], {}, { LISTLESS, ROOMY }, 2
local others = channel ~= '' and ask('HMGET', WAITS, ARGV, 3, #ARGV)
for i, outcome in ipairs(ask('HMGET', OUTCOMES, ARGV, 3, #ARGV)) do
    local id = ARGV[i + 2]
    if outcome and string.sub(outcome, 1, 1) == 'F' then
        answers[i] = outcome
    elseif call('HEXISTS', JOBS, id) == 0 then
        answers[i] = 0
    else
        answers[i] = 1
        local known = others and others[i]
        if others and not string.find('\n' .. (known or '') .. '\n', '\n' .. channel .. '\n', 1, true) then
            waiting[w + 1], waiting[w + 2], w = id, known and known .. '\n' .. channel or channel, w + 2
        end
    end
end
if w > 2 then
    despite_full_memory()
    many('HSET', WAITS, waiting, 1, w)
end
return answers
