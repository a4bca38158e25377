-- Whoever awaits an outcome is told with the commit: one message per channel,
-- a MessagePack array of binaries: id, what `outcomes` holds or '', and so on.
local told, heard, anybody = {}, {}, nil

local function somebody_waits()
    if anybody == nil then
        anybody = call('HLEN', WAITS) > 1 -- the first has no name
    end
    return anybody
end

local heads = {} -- of binaries, by length

local function binary_head(text)
    local head = heads[#text]
    if not head then
        head = '\198' .. struct.pack('>I4', #text)
        heads[#text] = head
    end
    return head
end

local function add_to(channel, words)
    local message = told[channel]
    if message then
        message[#message + 1] = words
    else
        told[channel] = { words }
    end
end

local function tell(id, channels, value)
    if not channels then
        return
    end
    heard[#heard + 1] = id
    local words = binary_head(id) .. id .. binary_head(value) .. value
    if string.find(channels, '\n', 1, true) then
        for channel in string.gmatch(channels, '[^\n]+') do
            add_to(channel, words)
        end
    else
        add_to(channels, words)
    end
end

local function publish_told()
    many('HDEL', WAITS, heard, 1, #heard)
    for channel, message in pairs(told) do
        call('PUBLISH', channel, '\221' .. struct.pack('>I4', 2 * #message) .. table.concat(message))
    end
end
