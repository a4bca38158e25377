-- What each queue holds. ARGV: now -> for each: queue, paused (0 or 1), ready, delayed, waiting, leased, how long the oldest is due ('')
local queues, answers = {}, {}
for _, lane in ipairs(call('SMEMBERS', LANES)) do
    local key, queue = P .. 'q:' .. lane, string.sub(lane, 2)
    local q = queues[queue] or { ready = 0, delayed = 0, waiting = 0, oldest = INF }
    queues[queue] = q
    local bundled, late = bundled_until(lane, NOW)
    q.ready = q.ready + call('ZCOUNT', key, '-inf', NOW) + bundled
    q.waiting = q.waiting + call('ZCOUNT', key, 'inf', 'inf')
    q.delayed = q.delayed + late + call('ZCOUNT', key, '(' .. NOW, '(inf')
    for _, lies_in in ipairs({ key, P .. 'g:' .. lane }) do
        local head = call('ZRANGE', lies_in, 0, 0, 'WITHSCORES')
        q.oldest = math.min(q.oldest, tonumber(head[2]) or INF)
    end
end
for _, queue in ipairs(call('SMEMBERS', PAUSED)) do
    queues[queue] = queues[queue] or { ready = 0, delayed = 0, waiting = 0, oldest = INF }
    queues[queue].paused = true
end
for queue, q in pairs(queues) do
    local leased = 0
    for _, count in ipairs(call('HVALS', P .. 'k:' .. queue)) do
        leased = leased + count
    end
    if q.paused or q.ready + q.delayed + q.waiting + leased > 0 then
        answers[#answers + 1] = { queue, q.paused and 1 or 0, q.ready, q.delayed, q.waiting, leased,
            q.ready > 0 and q.oldest < INF and string.format('%.0f', now - q.oldest) or '' }
    end
end
return answers
