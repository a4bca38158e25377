-- Jobs as a reader sees them. ARGV: now, ids...
-- -> now, then for each that is there: id, head of its record, lease (as in `held`), state, outcome, end of the lease ('' each if none)
local answers = { string.format('%.0f', now) }
for i = 2, #ARGV do
    local id = ARGV[i]
    local row = row_of(id)
    if row then
        local head = call('GETRANGE', P .. 'j:' .. id, 0, 36)
        head = call('GETRANGE', P .. 'j:' .. id, 0, tonumber(string.sub(head, 32, 37), 16) - 1)
        answers[#answers + 1] = { id, head, call('HGET', HELD, id) or '', call('HGET', STATE, id) or '', call('GET', P .. 'o:' .. id) or '',
            row.lease and call('ZSCORE', P .. 'u:' .. row.queue, row.n .. id) or '' }
    end
end
return answers
