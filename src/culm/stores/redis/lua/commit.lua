-- Any batch of commits: one by one, each with all its checks before its first write.
-- ARGV: now, client, number, ledger ('1' or ''), how many commits, then each as wire.py writes it
-- -> the answers, a letter each: a applied, l lease lost, c conflict
local at = 6
ledger = ARGV[4] == '1'

local function take()
    at = at + 1
    return ARGV[at - 1]
end

local function number()
    return tonumber(take())
end

local function read_jobs()
    local jobs = {}
    for i = 1, number() do
        jobs[i] = { id = take(), task = take(), queue = take(), priority = take(), after = take(), at = number(), keep = number(),
            topic = take(), tail = take() }
    end
    return jobs
end

local function read_triggers()
    local triggers = {}
    for i = 1, number() do
        local trigger = { id = take(), scope = take(), need = number(), topics = {} }
        for _ = 1, number() do
            local topic = take()
            trigger.topics[topic] = number()
        end
        triggers[i] = trigger
    end
    return triggers
end

local function read_commit()
    local c = { id = take(), lease = take(), kind = number(), after = take(), keep = number(), outcome = take(), send = read_jobs(),
        emit = {}, records = {}, cancel = {} }
    for i = 1, number() do
        c.emit[i] = { take(), take(), take(), take() }
    end
    c.triggers = read_triggers()
    for i = 1, number() do
        c.records[i] = { take(), take(), take() }
    end
    for i = 1, number() do
        c.cancel[i] = take()
    end
    return c
end

local function conflicts(c)
    local coming, steps = {}, {}
    for _, job in ipairs(c.send) do
        local known = head_of(job.id)
        coming[job.id] = coming[job.id] or job.task
        if (known and known.task or coming[job.id]) ~= job.task then
            return true
        end
    end
    for _, record in ipairs(c.records) do
        local flow, seq, value = unpack(record)
        local name = #flow .. ':' .. flow .. seq
        steps[name] = steps[name] or value
        if (call('HGET', P .. 'f:' .. flow, seq) or steps[name]) ~= value then
            return true
        end
    end
    for _, trigger in ipairs(c.triggers) do
        if not coming[trigger.id] and call('HEXISTS', JOBS, trigger.id) == 0 then
            return true
        end
    end
    return false
end

local function end_attempt(row, c)
    local lease, kind, after, due = row.lease, c.kind, tonumber(c.after), nil
    let_go(row)
    if kind <= 5 then
        return finish(row, kind, c.outcome, c.keep, lease)
    elseif kind == 6 then
        due = now + after
    else
        row.attempt = row.attempt - 1
        if kind == 7 then
            due = now + after
        elseif kind == 8 then
            due = row.again == 1 and now or after and now + after or INF
        else
            due = math.max(row.due, after > 0 and now + after or 0)
        end
    end
    if row.cancelled == 1 then
        return finish(row, 3, CANCELLED, row.keep, lease)
    end
    row.again = 0
    call('HSET', OUTCOMES, row.id, 'L' .. kind .. '\n' .. c.outcome)
    open_at(row, due)
    save(row)
end

local function send(job)
    local id = job.id
    if call('HEXISTS', JOBS, id) == 1 then
        return
    end
    local record = record_head() .. job.tail
    call('HSET', JOBS, id, record)
    if #record >= 32000 then -- records.py: LARGE
        call('HSET', LARGE, id, #record)
    end
    local entered, buried = enter(id, job.topic), call('ZSCORE', TOMBS, id)
    local row = { id = id, n = string.sub(record, 12, 27), sent = now, topic = job.topic, channel = '', queue = job.queue,
        lane = job.priority .. job.queue, attempt = 0, expiries = 0, fence = 0, again = 0, cancelled = 0 }
    if buried then
        return finish(row, 3, BEFORE, job.keep, '')
    end
    open_at(row, job.after == '-' and INF or math.max(now + job.after, job.at))
    if entered then
        save(row)
    end
end

local function effects(c)
    for _, record in ipairs(c.records) do
        local flow = record[1]
        call('HSET', need_scope(root_of(flow)), 'f' .. flow, 1)
        call('HSET', P .. 'f:' .. flow, record[2], record[3])
    end
    for _, job in ipairs(c.send) do
        send(job)
    end
    for _, event in ipairs(c.emit) do
        emit(unpack(event))
    end
    for _, trigger in ipairs(c.triggers) do
        await(trigger)
    end
    for _, id in ipairs(c.cancel) do
        cancel(id)
    end
end

local function apply(c)
    local held = c.id ~= '' and call('HGET', HELD, c.id)
    if c.lease ~= '' or c.id ~= '' then
        if not held or c.lease == '' or lease_in(held) ~= c.lease then
            return 'l'
        end
    end
    if conflicts(c) then
        return 'c'
    end
    -- Every check is done: from here on, all of it happens.
    if held and c.kind > 0 then
        end_attempt(row_of(c.id), c)
    end
    effects(c)
    return 'a'
end

local known = call('GET', P .. 'b:' .. ARGV[2])
local last = known and string.match(known, '^%d+')
if known and tonumber(ARGV[3]) <= tonumber(last) then
    return ARGV[3] == last and string.sub(known, #last + 2) or string.rep('l', tonumber(ARGV[5]))
end
local answers = {}
for i = 1, tonumber(ARGV[5]) do
    answers[i] = apply(read_commit())
end
ring_told()
answers = table.concat(answers)
call('SET', P .. 'b:' .. ARGV[2], ARGV[3] .. ' ' .. answers, 'PX', ANSWERS_MS)
return answers
