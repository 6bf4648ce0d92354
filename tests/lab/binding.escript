#!/usr/bin/env escript
%% A STUN client over TCP out of the library of Debian's ejabberd (erlang-p1-stun): asks HOST PORT
%% three times on one connection, the last time with an attribute that no STUN server needs to
%% know, and prints what it understands of each answer.
-include_lib("p1_stun/include/stun.hrl").

main([Host, Port]) ->
    {ok, Address} = inet:parse_address(Host),
    Family = case tuple_size(Address) of 4 -> inet; 8 -> inet6 end,
    {ok, Socket} = gen_tcp:connect(Address, list_to_integer(Port),
                                   [binary, Family, {active, false}], 10000),
    {ok, Local} = inet:sockname(Socket),
    io:format("local ~s~n", [end_of(Local)]),
    Known = #stun{'SOFTWARE' = <<"a client of another make">>},
    %% Both at once: TCP has no message boundaries.
    ok = gen_tcp:send(Socket, [stun_codec:encode(Known#stun{trid = 1}),
                               stun_codec:encode(Known#stun{trid = 2})]),
    Rest = answer(Socket, <<>>, 1),
    <<>> = answer(Socket, Rest, 2),
    ok = gen_tcp:send(Socket, stun_codec:encode(Known#stun{trid = 3, 'DONT-FRAGMENT' = true})),
    <<>> = answer(Socket, <<>>, 3).

answer(Socket, Bytes, Id) ->
    case stun_codec:decode(Bytes, stream) of
        {ok, #stun{trid = Id, method = ?STUN_METHOD_BINDING, unsupported = []} = Answer, Rest} ->
            print(Answer),
            Rest;
        Short when Short =:= empty; element(1, Short) =:= more ->
            {ok, More} = gen_tcp:recv(Socket, 0, 10000),
            answer(Socket, <<Bytes/binary, More/binary>>, Id)
    end.

print(#stun{class = response, 'XOR-MAPPED-ADDRESS' = Mapped}) ->
    io:format("mapped ~s~n", [end_of(Mapped)]);
print(#stun{class = error, 'ERROR-CODE' = {Code, _}, 'UNKNOWN-ATTRIBUTES' = Unknown}) ->
    io:format("error ~b ~w~n", [Code, Unknown]).

end_of({Ip, Port}) when tuple_size(Ip) =:= 8 -> io_lib:format("[~s]:~b", [inet:ntoa(Ip), Port]);
end_of({Ip, Port}) -> io_lib:format("~s:~b", [inet:ntoa(Ip), Port]).
