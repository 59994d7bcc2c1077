%% The listening socket: whoever connects gets a session process of its own under relay_sessions.
%%
%% Several processes accept at a time, as in any acceptor pool. They are no gen_servers and hold no state; that a
%% child is started through the supervisor is all that matters here.
-module(relay_door).

-export([start_link/0, init/1, accept/1]).

-define(ACCEPTORS, 8).

start_link() ->
    proc_lib:start_link(?MODULE, init, [self()]).

init(Parent) ->
    {ok, Port} = application:get_env(relay, port),
    {ok, Listener} = gen_tcp:listen(Port, [
        binary, {packet, line}, {active, false}, {reuseaddr, true}, {nodelay, true}, {backlog, 1024},
        {ip, {127, 0, 0, 1}}
    ]),
    [spawn_link(?MODULE, accept, [Listener]) || _ <- lists:seq(1, ?ACCEPTORS)],
    proc_lib:init_ack(Parent, {ok, self()}),
    receive
        {'EXIT', Parent, Reason} -> exit(Reason)
    end.

accept(Listener) ->
    {ok, Socket} = gen_tcp:accept(Listener),
    case supervisor:start_child(relay_sessions, [Socket]) of
        {ok, Session} ->
            case gen_tcp:controlling_process(Socket, Session) of
                ok -> relay_session:begin_reading(Session);
                {error, _} -> gen_tcp:close(Socket)
            end;
        {error, _} ->
            gen_tcp:close(Socket)
    end,
    accept(Listener).
