-- The grants of a large claim lie in the table's TOAST, which has settings of its own: like the table's.

ALTER TABLE {schema}.leases SET (
    toast.autovacuum_vacuum_threshold = 500, toast.autovacuum_vacuum_scale_factor = 0.05, toast.autovacuum_vacuum_cost_delay = 0
);
