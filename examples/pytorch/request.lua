-- wrk -t2 -c64 -d10s --latency -s request.lua http://127.0.0.1:8090/v2/models/bert/infer
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
local ids = {}
for i = 1, 128 do
  ids[i] = tostring(i * 7 % 30000)
end
wrk.body = '{"inputs":[{"name":"input_ids","shape":[1,128],"datatype":"INT64","data":[' .. table.concat(ids, ",") .. "]}]}"
