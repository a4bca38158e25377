-- Before somebody waits: wake at once if something of these queues is due already. ARGV: now, queues...
despite_full_memory()
local bundled = call('EXISTS', BUNDLED) == 1
for i = 2, #ARGV do
    local queue = ARGV[i]
    if call('SISMEMBER', PAUSED, queue) == 0 then
        for priority = 9, 0, -1 do
            if first_due(priority .. queue, bundled) <= now then
                ring(queue)
                break
            end
        end
    end
end
