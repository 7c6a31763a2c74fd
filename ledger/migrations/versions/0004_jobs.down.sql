-- The job library has no way down of its own: everything of its name in our schema goes.
DO $$
DECLARE
    v_what text;
BEGIN
    FOR v_what IN
        SELECT format('TABLE %s', c.oid::regclass) FROM pg_class c
        WHERE c.relnamespace = quote_ident(current_schema())::regnamespace AND c.relkind = 'r' AND c.relname LIKE 'procrastinate\_%'
    LOOP
        EXECUTE 'DROP ' || v_what || ' CASCADE';
    END LOOP;
    FOR v_what IN
        SELECT format('FUNCTION %s', p.oid::regprocedure) FROM pg_proc p
        WHERE p.pronamespace = quote_ident(current_schema())::regnamespace AND p.proname LIKE 'procrastinate\_%'
    LOOP
        EXECUTE 'DROP ' || v_what || ' CASCADE';
    END LOOP;
    FOR v_what IN
        SELECT format('TYPE %s', t.oid::regtype) FROM pg_type t
        WHERE t.typnamespace = quote_ident(current_schema())::regnamespace AND t.typname LIKE 'procrastinate\_%'
            AND (t.typtype = 'e' OR t.typtype = 'c')
    LOOP
        EXECUTE 'DROP ' || v_what || ' CASCADE';
    END LOOP;
END $$;
