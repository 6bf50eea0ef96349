-- wrk's side of the bench: chat completions of a given size, no two of them equal, so that no cache can answer.
-- Arguments: bytes of a body, about; a seed.
local bank = {
  "The museum on Garden Street opens at 9 and had %d visitors last week, most of them on Sunday. ",
  "Our order number %d has not arrived yet, and the tracking page still says that it left the warehouse. ",
  "Mix %d grams of flour with water and a little salt, then let the dough rest until it has doubled. ",
  "The train to the coast takes %d minutes when it is on time and stops at every small station. ",
  "In the meeting we agreed that the report needs %d more pages and two clear diagrams. ",
  "A good hiking boot lasts about %d kilometres if it is dried slowly and waxed now and then. ",
  "The library has %d books on astronomy, a few of them signed by their authors. ",
  "Rain is expected in the valley after %d hours, with wind from the west in the evening. ",
  "The choir rehearses in room %d and looks for two more tenors before the spring concert. ",
  "She planted %d tulips along the fence and hopes that the deer will not find them this year. ",
  "The old bridge carried %d carts a day before the new road was built further down the river. ",
  "Invoice %d was paid in March, so please remove the reminder from my account. ",
}
local size, serial, head, tail

function init(args)
  size = tonumber(args[1])
  math.randomseed(tonumber(args[2]))
  serial = math.random(1, 1000000) * 1000
  head = '{"model":"sim?chunks=200","temperature":0.2,"messages":[{"role":"system","content":"You are a helpful assistant.'
    .. ' Answer briefly."},{"role":"user","content":"Please summarise these notes in two sentences. '
  tail = '"}]}'
end

local random, format, concat = math.random, string.format, table.concat

function request()
  serial = serial + 1
  local parts, length = { head, "Note ", serial, ". " }, #head + #tail + 20
  while length < size do
    local sentence = format(bank[random(#bank)], random(100, 9999))
    parts[#parts + 1] = sentence
    length = length + #sentence
  end
  parts[#parts + 1] = tail
  local body = concat(parts)
  return concat({
    "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nAccept: application/json\r\n",
    "Authorization: Bearer sk-bench\r\nUser-Agent: OpenAI/Python 3.54.0\r\nX-Stainless-Lang: python\r\nContent-Length: ",
    #body, "\r\n\r\n", body,
  })
end

function done(summary, latency)
  local errors = summary.errors
  io.write(format(
    '\nRESULT {"requests":%d,"microseconds":%d,"bytes":%d,"p50_us":%d,"p99_us":%d,"failed":{"status 4xx or 5xx":%d,"connection":%d,"timeout":%d}}\n',
    summary.requests, summary.duration, summary.bytes, latency:percentile(50), latency:percentile(99),
    errors.status, errors.connect + errors.read + errors.write, errors.timeout
  ))
end
