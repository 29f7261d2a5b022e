-- Which members are in a set of KEYS. ARGV: what the reply begins with, the bytes of a member, the members joined.
local width, members, answer = tonumber(ARGV[2]), {}, {}
for at = 1, #ARGV[3], width do
  members[#members + 1] = string.sub(ARGV[3], at, at + width - 1)
  answer[#answer + 1] = '0'
end
for _, key in ipairs(KEYS) do
  for place, found in ipairs(redis.call('SMISMEMBER', key, unpack(members))) do
    if found == 1 then
      answer[place] = '1'
    end
  end
end
return ARGV[1] .. table.concat(answer)
