-- Before somebody waits: wake at once if something of these queues is due already. ARGV: now, queues...
despite_full_memory()
local grouped = call('EXISTS', GROUPED) == 1
for i = 2, #ARGV do
    local queue = ARGV[i]
    if call('SISMEMBER', PAUSED, queue) == 0 then
        for priority = 9, 0, -1 do
            local head = call('ZRANGE', P .. 'q:' .. priority .. queue, 0, 0, 'WITHSCORES')
            if head[2] and tonumber(head[2]) <= now or grouped and call('EXISTS', P .. 'g:' .. priority .. queue) == 1 then
                ring(queue)
                break
            end
        end
    end
end
