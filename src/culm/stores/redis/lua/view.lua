-- Jobs as a reader sees them. ARGV: now, ids...
-- -> now, then for each that is there: id, its record up to the body, lease (as in `held`), state, outcome, end of the lease, how often it was replayed ('' each if none)
local answers = { NOW }
for i = 2, #ARGV do
    local id = ARGV[i]
    local record = call('HGET', JOBS, id)
    if record then
        local held, ends = call('HGET', HELD, id) or '', ''
        if held ~= '' then
            local queue = queue_in(held)
            ends = call('HGET', P .. 'x:' .. queue, id) or call('ZSCORE', P .. 'u:' .. queue, lease_in(held)) or ''
        end
        answers[#answers + 1] = { id, string.sub(record, 1, body_of(record) - 1), held, call('HGET', STATE, id) or '', call('HGET', OUTCOMES, id) or '', ends,
            call('HGET', REPLAYS, id) or '' }
    end
end
return answers
