%% A session: one connection, and the state of a broadcast's track. Version 1 keeps the configuration record as it came.
%%
%% Lines that a client says, and what is answered:
%%     begin NAME CONFIG-IN-HEX    "begun 1"
%%     ping NUMBER                 "pong NUMBER 1": the version of the code, if it can read its state
%%     busy MS                     "busy 1", after so long a computation that answers nobody meanwhile
-module(relay_session).
-vsn("1").
-behaviour(gen_server).

-export([start_link/1, begin_reading/1]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2, code_change/3]).

-record(state, {socket, name = <<>>, config = <<>>, frames = 0, metadata = #{}}).

start_link(Socket) ->
    gen_server:start_link(?MODULE, Socket, []).

begin_reading(Session) ->
    gen_server:cast(Session, read).

init(Socket) ->
    {ok, #state{socket = Socket, metadata = #{width => 1280, height => 720, encoder => <<"bench">>}}}.

handle_call(_Request, _From, State) ->
    {reply, ok, State}.

handle_cast(read, #state{socket = Socket} = State) ->
    ok = inet:setopts(Socket, [{active, once}]),
    {noreply, State}.

handle_info({tcp, Socket, Line}, #state{socket = Socket} = State) ->
    ok = inet:setopts(Socket, [{active, once}]),
    {noreply, said(string:lexemes(Line, " \n"), State)};
handle_info({tcp_closed, Socket}, #state{socket = Socket} = State) ->
    {stop, normal, State}.

said([<<"begin">>, Name, Config], State) ->
    answer(<<"begun">>, State#state{name = Name, config = binary:decode_hex(Config)});
said([<<"ping">>, Number], State) ->
    answer(<<"pong ", Number/binary>>, State#state{frames = State#state.frames + 1});
said([<<"busy">>, Ms], State) ->
    compute(erlang:monotonic_time(millisecond) + binary_to_integer(Ms)),
    answer(<<"busy">>, State).

answer(Said, #state{socket = Socket} = State) ->
    _ = gen_tcp:send(Socket, [Said, <<" 1\n">>]), % to one that is gone: tcp_closed comes next
    State.

compute(Until) ->
    _ = lists:sum(lists:seq(1, 1000)),
    case erlang:monotonic_time(millisecond) < Until of
        true -> compute(Until);
        false -> ok
    end.

code_change(_From, State, _Extra) ->
    {ok, State}.
